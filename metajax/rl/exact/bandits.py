"""What is best in Bernoulli bandits whose probabilities are uniform: values and indices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def bandit_optimum(arms: int, pulls: int) -> float:
    """The expected total reward of the best player of `bernoulli_bandit`.

        value(counts) = max over a of  p + p value(counts with a success of a)
                                         + (1 - p) value(counts with a failure of a),
        p = (successes[a] + 1) / (successes[a] + failures[a] + 2)

    Counts that differ by the order of arms alone are solved once.

    Args:
      arms: how many.
      pulls: in one trial.

    Returns:
      The mean over bandits drawn from U[0, 1]^arms. Nobody does better on average.

    Raises:
      ValueError: if there is no arm or no pull.

    Example:
      >>> print(f"{bandit_optimum(arms=5, pulls=10):.4f}")
      6.6600

    Source:
      Bellman 1956, "A problem in the sequential design of experiments".

    Note:
      The number of counts grows fast: 5 thousand at 2 arms and 20 pulls, 1.3 million at
      10 arms.
    """
    _check("bandit_optimum", arms=arms, pulls=pulls)

    @functools.cache
    def value(touched: tuple) -> float:
        if sum(map(sum, touched)) == pulls:
            return 0.0
        untouched = {(0, 0)} if len(touched) < arms else set()
        best = 0.0
        for arm in untouched | set(touched):
            others = list(touched)
            if arm in others:
                others.remove(arm)
            successes, failures = arm
            p = (successes + 1) / (successes + failures + 2)
            won = value(tuple(sorted([*others, (successes + 1, failures)])))
            lost = value(tuple(sorted([*others, (successes, failures + 1)])))
            best = max(best, p * (1 + won) + (1 - p) * lost)
        return best

    return value(())


@functools.lru_cache(maxsize=2)
def gittins_indices(pulls: int) -> np.ndarray:
    """Indices of one arm for every number of pulls that are left, by its counts.

        index = the charge for a pull at which an arm is just worth pulling:
        worth(charge) = max(0, p - charge + p worth'(success) + (1 - p) worth'(failure))

    where `worth'` has one pull less left. Solved for 201 charges; the indices between
    them are interpolated, which leaves errors below 0.001.

    Args:
      pulls: in one trial, at most 1000.

    Returns:
      float32 `[pulls (pulls + 1) (pulls + 2) / 6]`, read-only: the index of an arm with
      `successes` in `tries` pulls when `done` pulls of all arms are done is at
      `index_place(done, tries, successes)`.

    Raises:
      ValueError: if `pulls` is not 1 to 1000.

    Example:
      >>> indices = gittins_indices(pulls=2)  # At the last pull an index is the mean.
      >>> print(indices[index_place(1, 1, 1)].round(3), indices[0].round(3))
      0.667 0.556

    Source:
      Gittins 1979; with a horizon, Niño-Mora 2011, "Computing a classic index for
      finite-horizon bandits".

    Note:
      With a horizon the policy of the highest index is nearly, not exactly, the best.
      100 pulls take a second, 500 a minute.
    """
    _check("gittins_indices", pulls=pulls)
    if pulls > 1000:
        raise ValueError(f"gittins_indices: pulls must be at most 1000: got {pulls}.")
    indices = np.zeros(pulls * (pulls + 1) * (pulls + 2) // 6, np.float32)
    charges = np.linspace(0, 1, 201, dtype=np.float32)
    for first in range(0, 200, 8):  # Few at a time stay in the processor's cache.
        _indices_among(indices, charges[first : first + 9], pulls)
    indices.flags.writeable = False
    return indices


def index_place(done, tries, successes):
    """Where `gittins_indices` has an arm's index; integers or arrays of them."""
    before = (done + 2) * (done + 1) * done // 6
    return before + (tries + 1) * tries // 2 + successes


def _indices_among(indices: np.ndarray, charges: np.ndarray, pulls: int) -> None:
    """Fills in the indices that lie between the lowest and the highest charge."""
    sizes = np.arange(pulls)
    mean = (sizes[:, None] + 1) / (sizes[:, None] + sizes + 2)  # [successes, failures]
    mean = mean.astype(np.float32)
    worth = np.zeros((len(charges), pulls + 1, pulls + 1), np.float32)
    for done in reversed(range(pulls)):
        won, lost = worth[:, 1:, :-1], worth[:, :-1, 1:]
        gain = won - lost
        gain += 1
        gain *= mean[: done + 1, : done + 1]
        gain += lost
        gain -= charges[:, None, None]
        above = np.count_nonzero(gain > 0, axis=0)  # It falls as the charge rises.
        successes, failures = np.nonzero((above > 0) & (above < len(charges)))
        keep = successes + failures <= done
        successes, failures = successes[keep], failures[keep]
        last = above[successes, failures] - 1
        high, low = (gain[last + i, successes, failures] for i in (0, 1))
        share = high / (high - low)
        place = index_place(done, successes + failures, successes)
        indices[place] = charges[last] + share * (charges[1] - charges[0])
        worth = np.maximum(gain, 0, out=gain)


GRID = 512  # Points of the integral: errors stay below 0.0005 at 500 pulls.


def best_arm_posterior(successes: jax.Array, failures: jax.Array) -> jax.Array:
    """The probability that an arm is the best, given what the arms have paid.

        integral over x of  density of arm a at x  *  product over others of P(arm <= x)

    with Beta(successes + 1, failures + 1), by the midpoint rule.

    Args:
      successes: of each arm, `[arms]`.
      failures: of each arm, `[arms]`.

    Returns:
      `[arms]`, with sum 1. Thompson sampling pulls an arm with this probability.

    Example:
      >>> chances = best_arm_posterior(jnp.array([1, 0]), jnp.array([0, 1]))
      >>> print(f"{chances[0]:.3f} {chances[1]:.3f}")
      0.833 0.167

    Source:
      Thompson 1933, "On the likelihood that one unknown probability exceeds another".
    """
    points = (jnp.arange(GRID) + 0.5) / GRID
    log_density = jnp.outer(successes, jnp.log(points))
    log_density += jnp.outer(failures, jnp.log1p(-points))
    mass = jax.nn.softmax(log_density, axis=-1)
    at_most = jnp.maximum(jnp.cumsum(mass, axis=-1) - mass / 2, 1e-30)
    chances = jnp.sum(
        mass * (jnp.prod(at_most, axis=0, keepdims=True) / at_most), axis=-1
    )
    return chances / chances.sum()


def _check(name: str, **sizes: int) -> None:
    for size, number in sizes.items():
        if number < 1:
            raise ValueError(f"{name}: {size} must be at least 1: got {number}.")
