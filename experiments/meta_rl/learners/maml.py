"""MAML: parameters of a policy that policy gradients adapt."""

from experiments.door import Part
from experiments.meta_rl.flags import (
    integer,
    number,
    positive,
    shares,
    switch,
)
from experiments.meta_rl.learners.rl2 import EPISODES
from experiments.meta_rl.outer import CREDIT, OUTER_LOSS
from experiments.meta_rl.parts import Learning

INNER_RATE = number("inner_rate", 0.1, "Rate of the first step of adaptation.")
LATER_RATE = number(
    "later_rate", 0.05, "Rate of those after it, which come in testing alone."
)
INNER_MEMORY = number(
    "inner_memory",
    1.0,
    "How much of the influence of earlier decisions the second derivative has: 1 for all "
    "of it, less for less variance.",
)
NORMALIZED = switch(
    "normalized",
    True,
    "Normalise advantages over the decisions of a task.",
)
EVAL_STEPS = integer("eval_steps", 3, "Steps of adaptation in testing.", 1)
EVAL_EPISODES = integer(
    "eval_episodes", 40, "Episodes between two of them in testing.", 1
)
positive(INNER_RATE, LATER_RATE)
shares(INNER_MEMORY)
READS = (
    *(EPISODES, OUTER_LOSS, *CREDIT, INNER_RATE, LATER_RATE, INNER_MEMORY),
    *(NORMALIZED, EVAL_STEPS, EVAL_EPISODES),
)


def make(game, policy, *, first_order=False, **read):
    """MAML in a game."""
    import optax

    import metajax as mj
    from metajax import rl

    adjoint = mj.adjoints.unroll(last=0) if first_order else None
    loss = rl.losses.policy_gradient(read["inner_memory"])

    def adapting(rate):
        return mj.maml(rl.as_model(policy), loss, optax.sgd(rate), 1, adjoint=adjoint)

    learner = adapting(read["inner_rate"])
    credit = rl.Credit(read["discount"], read["decay"], read["reward_scale"], "linear")
    before, after = (
        rl.rollouts(game.environment, policy, read["episodes"], credit, normalized=flag)
        for flag in (read["normalized"], True)
    )
    steps = [learner] + [adapting(read["later_rate"])] * (read["eval_steps"] - 1)
    return _measured(
        game, policy, learner, steps, read, credit, before=before, after=after
    )


def _measured(game, policy, learner, steps, read, credit, *, before, after):
    """How a policy is measured whose parameters adapt: step by step."""
    import jax
    import jax.numpy as jnp

    from experiments.meta_rl import measuring
    from metajax import rl

    number = read["eval_episodes"]
    collect = rl.rollouts(
        game.environment, policy, number, credit, normalized=read["normalized"]
    )
    collects = [collect] * (len(steps) + 1)
    adapt = rl.adaptation(steps, collects)

    def play(key, meta, task):
        each = [jax.tree.map(_first(game), b) for _, b in adapt(key, meta, task)]
        for step, batch in enumerate(each):
            episode = jnp.full_like(batch.targets.episode, step)
            each[step] = batch._replace(targets=batch.targets._replace(episode=episode))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)

    chosen = rl.returns_by_step(steps[:1], [collect] * 2, number)
    return Learning(
        learner=learner,
        collect=rl.before_and_after(game.environment, learner, before, after),
        loss=read["outer_loss"],
        metrics={"return": measuring.mean_return(read["episodes"])},
        axis="adaptation steps",
        places=tuple(range(len(steps) + 1)),
        objective=rl.returns_by_step(steps, collects, number),
        chosen=measuring.last(chosen),
        chosen_place=1,
        play=play,
        adapts=True,
    )


def _first(game):
    """The first of the episodes that were collected side by side."""
    return lambda leaf: leaf[: game.environment.horizon]


LEARNER = Part("a start from which policy gradients adapt all parameters", make, READS)
