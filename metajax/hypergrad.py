"""How wrong an estimate of the meta-gradient is, and what it costs."""

from collections.abc import Mapping
import math
from statistics import median
import time
from typing import NamedTuple

import jax
import numpy as np

from metajax.base import Estimator, Key, MetaParams, PyTree, Task


class HypergradCheck(NamedTuple):
    """One estimate of the meta-gradient beside the reference."""

    cosine: float  # Of the angle between the two; NaN for an estimate of 0.
    relative_error: float  # Norm of the difference over that of the reference.
    temporaries: int  # Bytes allocated beside arguments and results, on one device.
    seconds: float  # Of one evaluation, median over rounds.
    metrics: dict[str, float]  # Of the estimator, those that are one number.

    @property
    def rescaled_error(self) -> float:
        """The relative error of the estimate times the best positive number.

            min over c >= 0 of |c estimate - reference| / |reference| = sqrt(1 - cosine^2)

        It is what counts where the size of the gradient does not, as under Adam.
        """
        rescaled = math.sqrt(max(1 - max(self.cosine, 0.0) ** 2, 0.0))
        return min(self.relative_error, rescaled)  # Where rounding would say else.


def check_hypergrad(
    estimators: Mapping[str, Estimator],
    meta: MetaParams,
    tasks: Task,
    *,
    key: Key,
    rounds: int = 3,
) -> dict[str, HypergradCheck]:
    """Compares estimates of the meta-gradient with the first of them.

        cosine         = <estimate, reference> / (|estimate| |reference|)
        relative_error = |estimate - reference| / |reference|

    of the whole meta-gradient as one vector, in float64. Each estimator is compiled
    once; the first round is neither timed nor left out of the comparison, and the
    timed ones take the estimators in turn, so that a busy moment meets all of them.

    Args:
      estimators: by name. The first is the reference, usually the exact gradient:
        `backprop` of an objective whose inner loop is `unroll()`.
      meta: the meta-parameters at which the gradient is taken.
      tasks: the tasks, leaves `[tasks, ...]`.
      key: for what is random in the estimators, the same for all of them.
      rounds: timings of each.

    Returns:
      By name, in that order: the cosine, the relative error, temporaries in bytes, the
      seconds of an evaluation, and metrics such as the `solver_residual` of
      `adjoints.implicit`. An estimate that is not finite has NaN for the first two.

    Raises:
      ValueError: if there is no estimator or no round, if the gradients differ in
        structure or shapes, or if the reference is zero or not finite.

    Note:
      Estimators that use randomness are judged by one draw of it: an unbiased estimate
      may have any error here.

    Example:
      >>> def estimator(adjoint):  # doctest: +SKIP
      ...     learner = maml(model, loss, optax.sgd(0.4), 5, adjoint=adjoint)
      ...     return backprop(query_loss(learner, loss))
      >>> adjoints = {"exact": unroll(), "first order": unroll(last=0)}  # doctest: +SKIP
      >>> checks = check_hypergrad(  # doctest: +SKIP
      ...     {name: estimator(adjoint) for name, adjoint in adjoints.items()},
      ...     state.meta, tasks, key=jax.random.key(0)
      ... )
      >>> print(hypergrad_table(checks))  # doctest: +SKIP
    """
    if not estimators or rounds < 1:
        raise ValueError(
            "check_hypergrad needs at least one estimator, the reference, and one round: "
            f"got {len(estimators)} and {rounds}."
        )
    compiled = _compile(estimators, (key, meta, tasks))
    gradients, metrics = {}, {}
    for name, estimate in compiled.items():
        (_, values), gradient = estimate(key, meta, tasks)
        gradients[name] = _vector(gradient)
        metrics[name] = {k: float(x) for k, x in values.items() if np.ndim(x) == 0}
    name, reference = next(iter(gradients.items()))
    norm = np.linalg.norm(reference)
    if not 0 < norm < np.inf:
        raise ValueError(
            f"check_hypergrad: the reference {name!r} has a gradient of norm {norm}: "
            "nothing can be compared with it."
        )
    seconds = _time(compiled, (key, meta, tasks), rounds)
    return {
        name: HypergradCheck(
            *_compare(gradients[name], reference),
            executable.memory_analysis().temp_size_in_bytes,
            seconds[name],
            metrics[name],
        )
        for name, executable in compiled.items()
    }


def hypergrad_table(checks: Mapping[str, HypergradCheck]) -> str:
    """The checks as text, one line an estimator.

    Args:
      checks: from `check_hypergrad`.

    Returns:
      A table of cosine, relative error, error after the best rescaling, milliseconds
      and MiB of temporaries, both also over those of the reference, and of the metrics
      that the reference does not have.

    Raises:
      ValueError: if there are no checks.

    Example:
      >>> exact = HypergradCheck(1.0, 0.0, 2**21, 0.05, {"loss": 1.5})
      >>> rough = HypergradCheck(0.8, 0.75, 2**20, 0.02, {"loss": 1.5})
      >>> print(hypergrad_table({"exact": exact, "first order": rough}))
                   cosine    error  rescaled  ms  of exact  MiB  of exact
      exact        1.0000        0         0  50      1.00  2.0      1.00
      first order  0.8000  7.5e-01   6.0e-01  20      0.40  1.0      0.50
    """
    if not checks:
        raise ValueError("hypergrad_table: there are no checks.")
    exact = next(iter(checks.values()))
    reported = [name for check in checks.values() for name in check.metrics]
    extra = [name for name in dict.fromkeys(reported) if name not in exact.metrics]
    header = ["", "cosine", "error", "rescaled", "ms", "of exact", "MiB", "of exact"]
    rows = [header + extra]
    for name, check in checks.items():
        row = [name, f"{check.cosine:.4f}", _short(check.relative_error)]
        row += [_short(check.rescaled_error), f"{1e3 * check.seconds:.4g}"]
        row += [_ratio(check.seconds, exact.seconds)]
        row += [f"{check.temporaries / 2**20:.1f}"]
        row += [_ratio(check.temporaries, exact.temporaries)]
        rows.append(row + [_short(check.metrics.get(name)) for name in extra])
    first, *widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([name.ljust(first), *(x.rjust(w) for x, w in zip(cells, widths))])
        for name, *cells in rows
    )


def _compile(estimators: Mapping[str, Estimator], arguments: tuple) -> dict:
    """Compiles every estimator, once it is known that their gradients are alike."""
    lowered = {name: jax.jit(e).lower(*arguments) for name, e in estimators.items()}
    shapes = {}
    for name, program in lowered.items():
        _, gradient = program.out_info
        shapes[name] = jax.tree.map(lambda leaf: leaf.shape, gradient)
    reference, expected = next(iter(shapes.items()))
    for name, found in shapes.items():
        if found != expected:
            raise ValueError(
                "check_hypergrad: gradients must have the structure and shapes of the "
                f"reference's. {reference!r} has {expected}, {name!r} has {found}."
            )
    return {name: program.compile() for name, program in lowered.items()}


def _time(compiled: Mapping, arguments: tuple, rounds: int) -> dict[str, float]:
    seconds = {name: [] for name in compiled}
    for _ in range(rounds):
        for name, estimate in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(estimate(*arguments))
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def _vector(gradient: PyTree) -> np.ndarray:
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(gradient)]
    return np.concatenate([np.zeros(0), *leaves])


def _compare(estimate: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Cosine and relative error."""
    if not np.isfinite(estimate).all():
        return math.nan, math.nan
    norm, expected = np.linalg.norm(estimate), np.linalg.norm(reference)
    cosine = estimate @ reference / (norm * expected) if norm else math.nan
    return float(cosine), float(np.linalg.norm(estimate - reference) / expected)


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if value else "0"


def _ratio(value: float, reference: float) -> str:
    return f"{value / reference:.2f}" if reference else "-"
