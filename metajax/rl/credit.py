"""Which decision earned what: returns, advantages and a baseline, along one stream."""

import jax
import jax.numpy as jnp


def returns(
    rewards: jax.Array, ends: jax.Array | None = None, discount: float = 1.0
) -> jax.Array:
    """The discounted rewards from each decision on.

        returns[t] = rewards[t] + discount * (1 - ends[t]) * returns[t + 1]

    Args:
      rewards: of each decision, `[decisions]`.
      ends: True where nothing later counts, `[decisions]`; None if only at the last.
      discount: between 0 and 1.

    Returns:
      `[decisions]`, in units of reward.

    Example:
      >>> returns(jnp.array([1.0, 2.0, 4.0]), discount=0.5).tolist()
      [3.0, 4.0, 4.0]
    """
    return _sums(rewards, discount * _goes_on(rewards, ends))


def advantages(
    rewards: jax.Array,
    values: jax.Array,
    ends: jax.Array | None = None,
    discount: float = 1.0,
    decay: float = 1.0,
) -> jax.Array:
    """Generalised advantages: how much better than its value a decision turned out.

        errors[t]     = rewards[t] + discount * (1 - ends[t]) * values[t + 1] - values[t]
        advantages[t] = errors[t] + discount * decay * (1 - ends[t]) * advantages[t + 1]

    Args:
      rewards: of each decision, `[decisions]`.
      values: estimates of the returns, `[decisions]`; beyond the last one they are 0.
      ends: as in `returns`.
      discount: as in `returns`.
      decay: of errors further ahead: 1 trusts rewards alone, 0 trusts values.

    Returns:
      `[decisions]`, in units of reward. With the values added they are what values are
      to learn.

    Source:
      Schulman et al. 2016 (arXiv 1506.02438), section 3.
    """
    going_on = _goes_on(rewards, ends)
    later = jnp.append(values[1:], 0)
    errors = rewards + discount * going_on * later - values
    return _sums(errors, discount * decay * going_on)


def linear_baseline(
    observations: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    regularization: float = 1e-5,
) -> jax.Array:
    """Values that are linear in features of observation and time, fitted to returns.

        features = [observation, observation^2, time, time^2, time^3, 1]

    Args:
      observations: of several episodes, `[episodes, steps, size]`.
      targets: what came of them, `[episodes, steps]`.
      mask: True for real steps, `[episodes, steps]`.
      regularization: of the weights, but never less than what the fit can bear.

    Returns:
      Values, `[episodes, steps]`.

    Source:
      Duan et al. 2016 (arXiv 1604.06778), supplement, with time in hundreds of steps.
    """
    episodes, steps, _ = observations.shape
    time = jnp.broadcast_to(jnp.arange(steps)[:, None] / 100, (episodes, steps, 1))
    powers = [observations, observations**2, time, time**2, time**3, time**0]
    features = jnp.concatenate(powers, axis=-1)
    real = jnp.where(mask[..., None], features, 0).reshape(episodes * steps, -1)
    wanted = jnp.where(mask, targets, 0).reshape(-1)
    gram = real.T @ real + regularization * jnp.eye(real.shape[1])
    weights = jnp.linalg.solve(gram, real.T @ wanted)
    return features @ weights


def _goes_on(rewards: jax.Array, ends: jax.Array | None) -> jax.Array:
    return jnp.ones_like(rewards) if ends is None else jnp.where(ends, 0.0, 1.0)


def _sums(values: jax.Array, factors: jax.Array) -> jax.Array:
    """`sums[t] = values[t] + factors[t] * sums[t + 1]`."""

    def add(later, each):
        value, factor = each
        total = value + factor * later
        return total, total

    zero = jnp.zeros((), values.dtype)
    return jax.lax.scan(add, zero, (values, factors), reverse=True)[1]
