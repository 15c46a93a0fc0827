"""Losses of decisions: policy gradients whose second derivative is right, A2C and PPO.

Each is an ordinary loss, `(outputs, targets, mask) -> scalar`, of `Decision` and `Acted`,
leaves `[decisions, ...]`: an inner loop may descend it, an objective may judge by it.
"""

import jax
import jax.numpy as jnp

from metajax.base import Loss, without_padding
from metajax.losses import masked_mean
from metajax.rl.base import Acted, Decision


def policy_gradient(memory: float = 1.0) -> Loss:
    """The loss whose derivatives, first and second, are those of the expected return.

        log_ratio[t] = log pi(action[t]) - log_prob[t]
        past[t]      = memory * past[t - 1] + log_ratio[t]        anew in each episode
        loss         = -mean_t (exp(past[t]) - exp(past[t] - log_ratio[t])) advantage[t]

    Where the policy is the one that acted, every `past` is 0 in value. The derivative of
    the usual `-mean(log pi * advantage)` is right as well, but not its second one, which
    an inner step of MAML is differentiated by.

    Args:
      memory: 1 is unbiased in all derivatives; less of it weighs the influence of earlier
        decisions down, for less variance; 0 keeps none.

    Returns:
      A loss, mean over decisions. Its value is near 0 and says nothing.

    Raises:
      ValueError: if `memory` is not from 0 to 1.

    Source:
      Foerster et al. 2018 (arXiv 1802.05098), section 4, for memory 1; Farquhar, Whiteson,
      Foerster 2019 (arXiv 1909.10549), section 4, for less; Rothfuss et al. 2019
      (arXiv 1810.06784), section 5, for 0.
    """
    if not 0 <= memory <= 1:
        raise ValueError(f"policy_gradient: memory must be from 0 to 1: got {memory}.")

    def loss(outputs: Decision, targets: Acted, mask: jax.Array | None = None):
        outputs, targets = without_padding((outputs, targets), mask)
        log_ratio = _log_ratio(outputs, targets)
        begins = jnp.append(True, targets.episode[1:] != targets.episode[:-1])
        past = _running_sums(log_ratio, jnp.where(begins, 0.0, memory))
        weights = jnp.exp(past) - jnp.exp(past - log_ratio)
        return masked_mean(-weights * targets.advantage, mask)

    return loss


def a2c(value_cost: float = 0.5, entropy_bonus: float = 0.0) -> Loss:
    """Advantage actor-critic.

        -mean(log pi(action) advantage) + value_cost mean((value - value_target)^2)
        - entropy_bonus mean(entropy)

    Args:
      value_cost: weight of the error of the values.
      entropy_bonus: weight of the entropy of the policy.

    Returns:
      A loss, for one update a rollout. Do not descend it in an inner loop whose
      derivative is taken: see `policy_gradient`.

    Source:
      Mnih et al. 2016 (arXiv 1602.01783), section 4.
    """

    def loss(outputs: Decision, targets: Acted, mask: jax.Array | None = None):
        outputs, targets = without_padding((outputs, targets), mask)
        gains = outputs.actions.log_prob(targets.action) * targets.advantage
        rest = _values_and_entropy(outputs, targets, value_cost, entropy_bonus)
        return masked_mean(rest - gains, mask)

    return loss


def ppo(clip: float = 0.2, value_cost: float = 0.5, entropy_bonus: float = 0.0) -> Loss:
    """Proximal policy optimisation: several updates by one rollout, none too far.

        ratio = exp(log pi(action) - log_prob)
        -mean(min(ratio advantage, clamp(ratio, 1 - clip, 1 + clip) advantage))
        + value_cost mean((value - value_target)^2) - entropy_bonus mean(entropy)

    Args:
      clip: from which distance to 1 a ratio gains nothing more.
      value_cost: as in `a2c`.
      entropy_bonus: as in `a2c`.

    Returns:
      A loss.

    Raises:
      ValueError: if `clip` is not positive.

    Source:
      Schulman et al. 2017 (arXiv 1707.06347), equations 7 and 9.
    """
    if not clip > 0:
        raise ValueError(f"ppo: clip must be positive: got {clip}.")

    def loss(outputs: Decision, targets: Acted, mask: jax.Array | None = None):
        outputs, targets = without_padding((outputs, targets), mask)
        ratio = jnp.exp(_log_ratio(outputs, targets))
        clamped = jnp.clip(ratio, 1 - clip, 1 + clip)
        gains = jnp.minimum(ratio * targets.advantage, clamped * targets.advantage)
        rest = _values_and_entropy(outputs, targets, value_cost, entropy_bonus)
        return masked_mean(rest - gains, mask)

    return loss


def imitation(
    outputs: Decision, targets: Acted, mask: jax.Array | None = None
) -> jax.Array:
    """How improbable the policy finds what was done, `-mean(log pi(action))`.

    Of histories of a learning algorithm, along which the policy sees what that saw, it
    teaches the policy to learn as that does.

    Source:
      Laskin et al. 2022 (algorithm distillation, arXiv 2210.14215), section 3.
    """
    outputs, targets = without_padding((outputs, targets), mask)
    return masked_mean(-outputs.actions.log_prob(targets.action), mask)


def entropy(
    outputs: Decision, targets: Acted, mask: jax.Array | None = None
) -> jax.Array:
    """The mean entropy of the policy in nats, to look at."""
    del targets
    return masked_mean(outputs.actions.entropy(), mask)


def total_reward(
    outputs: Decision, targets: Acted, mask: jax.Array | None = None
) -> jax.Array:
    """All rewards of a batch, to look at."""
    del outputs
    rewards = targets.reward if mask is None else jnp.where(mask, targets.reward, 0)
    return jnp.sum(rewards)


def _log_ratio(outputs: Decision, targets: Acted) -> jax.Array:
    return outputs.actions.log_prob(targets.action) - targets.log_prob


def _values_and_entropy(
    outputs: Decision, targets: Acted, value_cost: float, entropy_bonus: float
) -> jax.Array:
    errors = jnp.square(outputs.value - targets.value_target)
    return value_cost * errors - entropy_bonus * outputs.actions.entropy()


def _running_sums(values: jax.Array, factors: jax.Array) -> jax.Array:
    """`sums[t] = factors[t] * sums[t - 1] + values[t]`."""

    def join(before, after):
        (factor, total), (later_factor, later_total) = before, after
        return factor * later_factor, later_factor * total + later_total

    return jax.lax.associative_scan(join, (factors, values))[1]
