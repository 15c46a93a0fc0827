"""How policies are trained: rewards are credited, losses are descended."""

from experiments.door import Part
from experiments.meta_rl.flags import (
    integer,
    not_negative,
    number,
    one_of,
    positive,
    shares,
)

DISCOUNT = number("discount", 1.0, "Of later rewards.")
DECAY = number(
    "decay", 0.95, "Of errors of the values further ahead: 1 trusts rewards alone."
)
REWARD_SCALE = number(
    "reward_scale", 1.0, "What rewards are multiplied by where they are credited."
)
shares(DISCOUNT, DECAY)
positive(REWARD_SCALE)
CREDIT = (DISCOUNT, DECAY, REWARD_SCALE)

VALUE_COST = number("value_cost", 0.5, "Weight of the error of the values.")
ENTROPY_BONUS = number(
    "entropy_bonus",
    0.01,
    "Weight of the entropy at the start; it falls to --final_entropy_bonus.",
)
FINAL_ENTROPY_BONUS = number("final_entropy_bonus", 0.0, "That at the end.")
CLIP = number("clip", 0.2, "From which distance to 1 a ratio gains nothing more.")
EPOCHS = integer("epochs", 2, "How often all that is collected is gone through.", 1)
PARTS = integer("parts", 4, "Updates an epoch; they divide --num_tasks.", 1)
not_negative(VALUE_COST, ENTROPY_BONUS, FINAL_ENTROPY_BONUS)
positive(CLIP)
_BOTH = (VALUE_COST, ENTROPY_BONUS, FINAL_ENTROPY_BONUS)


def _entropy(progress, entropy_bonus, final_entropy_bonus):
    return entropy_bonus + progress * (final_entropy_bonus - entropy_bonus)


def _ppo(progress, *, clip, value_cost, entropy_bonus, final_entropy_bonus):
    from metajax.rl import losses

    bonus = _entropy(progress, entropy_bonus, final_entropy_bonus)
    return losses.ppo(clip, value_cost, bonus)


def _a2c(progress, *, value_cost, entropy_bonus, final_entropy_bonus):
    from metajax.rl import losses

    return losses.a2c(
        value_cost, _entropy(progress, entropy_bonus, final_entropy_bonus)
    )


OUTER_LOSSES = {
    "ppo": Part(
        "several updates by what is collected, none too far",
        _ppo,
        (CLIP, *_BOTH),
        also=(EPOCHS, PARTS),
    ),
    "a2c": Part("one update by what is collected", _a2c, _BOTH),
}
OUTER_LOSS = one_of(
    "outer_loss", "ppo", list(OUTER_LOSSES), "What the outer loop descends."
)
RATE = number("rate", 3e-3, "Rate of Adam.")
FINAL_RATE = number("final_rate", 3e-4, "Rate at the end, where it falls along a line.")
MAX_NORM = number(
    "max_norm", 1.0, "Greatest norm of a gradient: longer ones are shortened to it."
)
positive(RATE, MAX_NORM)
not_negative(FINAL_RATE)


def optimizer(num_updates: int, rate: float, final_rate: float, max_norm: float):
    """Adam, by gradients that are not too long, at a rate that falls."""
    import optax

    schedule = optax.linear_schedule(rate, final_rate, max(num_updates, 1))
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(schedule))
