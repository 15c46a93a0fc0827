"""Meta-testing: one value a task, on a list of tasks that a key fixes for good."""

from collections.abc import Callable
from functools import partial
import hashlib
from typing import NamedTuple

import jax
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from metajax import contracts
from metajax.base import Key, MetaParams, Objective, Sampler
from metajax.steps import TrainState
from metajax.streams import as_pytree, draw_tasks, threefry


class Evaluation(NamedTuple):
    """What evaluation saw: every metric of every task, and which tasks they were."""

    values: dict[str, np.ndarray]  # [tasks] each
    tasks_hash: str  # Digest of the tasks' bytes: equal for the same tasks only.


class Summary(NamedTuple):
    """One metric over tasks. One value that is not finite makes the mean so, too."""

    mean: float
    interval: float  # Half the width of the 95% confidence interval of the mean.
    median: float  # With values that are not numbers counted as the largest.
    num_tasks: int
    num_nonfinite: int


def evaluate(
    objective: Objective,
    meta: MetaParams,
    sampler: Sampler,
    *,
    key: Key,
    num_tasks: int,
    tasks_per_chunk: int = 100,
    report: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measures an objective on tasks fixed by a key.

    Args:
      objective: what one task costs; its metrics are what is measured.
      meta: the meta-parameters.
      sampler: draws one task from a key.
      key: fixes the tasks: the same key, sampler and number give the same tasks to
        every learner, whatever the chunk.
      num_tasks: how many tasks.
      tasks_per_chunk: how many are held at a time; smaller takes less memory.
      report: called after each chunk with how many tasks it had, as to show progress.

    Returns:
      The metrics of each task, and a digest of the tasks.

    Raises:
      ValueError: if there is no task or chunk, or within jit; while tracing, if tasks do
        not fit together, or the objective returns something else.

    Note:
      Called again with the same objective it does not compile again, nor with one that
      `query_loss` makes of the same learner and losses. The program of each other one is
      kept: make learners before a loop, not in it.

    Example:
      >>> result = evaluate(  # doctest: +SKIP
      ...     objective, state.meta, sampler, key=jax.random.key(1), num_tasks=600
      ... )
      >>> mean_and_interval(result.values["accuracy"])  # doctest: +SKIP
    """
    if min(num_tasks, tasks_per_chunk) < 1:
        raise ValueError(
            f"evaluate needs at least one task, in chunks of at least one: got "
            f"{num_tasks} and {tasks_per_chunk}."
        )
    contracts.check_objective(objective)
    contracts.check_sampler(sampler)
    if isinstance(meta, TrainState):
        raise ValueError("evaluate takes the meta-parameters: give it state.meta.")
    if any(isinstance(x, Tracer) for x in jax.tree.leaves((meta, key))):
        raise ValueError(
            "evaluate compiles what it runs, and reads its tasks on the host: call it "
            "outside of jit, grad and vmap."
        )
    draw_key, objective_key = jax.random.split(threefry(key))
    digests, chunks = {}, []
    for start in range(0, num_tasks, tasks_per_chunk):
        indices = np.arange(start, min(start + tasks_per_chunk, num_tasks))
        indices = _divide(indices, meta)
        tasks = _draw(as_pytree(sampler), draw_key, indices)
        for i, leaf in enumerate(jax.tree.leaves(tasks)):
            digest = digests.setdefault(i, hashlib.blake2b(digest_size=8))
            digest.update(_on_host(leaf).tobytes())
        metrics = _measure(objective, objective_key, meta, tasks, indices)
        chunks.append(jax.tree.map(_on_host, metrics))
        if report is not None:
            report(len(indices))
    values = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}
    together = b"".join(digest.digest() for digest in digests.values())
    return Evaluation(values, hashlib.blake2b(together, digest_size=8).hexdigest())


def _divide(indices: np.ndarray, meta: MetaParams) -> jax.Array | np.ndarray:
    """Divides tasks among the devices that hold `meta`, if several do."""
    leaves = jax.tree.leaves(meta)
    sharding = getattr(leaves[0], "sharding", None) if leaves else None
    if not isinstance(sharding, NamedSharding) or len(indices) % sharding.mesh.size:
        return indices
    each = PartitionSpec(sharding.mesh.axis_names)
    return jax.device_put(indices, NamedSharding(sharding.mesh, each))


def _on_host(x: jax.Array) -> np.ndarray:
    """An array of which other processes may hold a part."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


@jax.jit
def _draw(sampler, key, indices):
    return draw_tasks(key, sampler, indices)


@partial(jax.jit, static_argnums=0)
def _measure(objective, key, meta, tasks, indices):
    contracts.check_tasks(tasks)

    def measure(index, task):
        key_of_task = jax.random.fold_in(key, index)
        return contracts.check_result(objective(key_of_task, meta, task))[1]

    return jax.vmap(measure)(indices, tasks)


def mean_and_interval(values: np.ndarray) -> tuple[float, float]:
    """The mean over tasks and its 95% confidence interval, by Student's t.

        mean +- t std / sqrt(tasks)     t: quantile 0.975 of tasks - 1 degrees of freedom

    Args:
      values: one value a task, `[tasks]`, at least two.

    Returns:
      The mean, and half the width of the interval.

    Example:
      >>> mean_and_interval(np.array([0.0, 1.0, 0.0, 1.0]))
      (0.5, 0.9186...)

    Note:
      t is 1.96 for very many, 1.98 for 100, and 4.3 for three values, such as of seeds.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"An interval needs at least two tasks, one value each: got {values.shape}."
        )
    from scipy.special import stdtrit  # It takes a tenth of a second to import.

    t = stdtrit(len(values) - 1, 0.975)
    return float(values.mean()), float(t * values.std(ddof=1) / np.sqrt(len(values)))


def summarize(values: np.ndarray) -> Summary:
    """Summarises one metric over tasks, and says how many of them went wrong.

    Args:
      values: one value a task, `[tasks]`, at least two.

    Returns:
      Mean, interval and median over all tasks, and how many are not finite. The median
      still tells what a typical task does where some tasks diverge.
    """
    with np.errstate(invalid="ignore"):  # inf - inf, where a task diverges.
        mean, interval = mean_and_interval(values)
    median = float(np.median(np.nan_to_num(values, nan=np.inf, posinf=np.inf)))
    num_nonfinite = int(np.sum(~np.isfinite(values)))
    return Summary(mean, interval, median, len(values), num_nonfinite)


def paired_difference(a: Evaluation, b: Evaluation, name: str) -> tuple[float, float]:
    """Compares two evaluations task by task, which cancels how hard each task is.

    Args:
      a: one evaluation.
      b: another, on the same tasks.
      name: the metric to compare.

    Returns:
      The mean of `a - b` over tasks, and half the width of its 95% interval; they
      differ significantly where the interval excludes 0.

    Raises:
      ValueError: if the tasks were not the same.
    """
    if a.tasks_hash != b.tasks_hash:
        raise ValueError(
            f"A paired comparison needs the same tasks: these are {a.tasks_hash} and "
            f"{b.tasks_hash}. Evaluate both with the same data, ways, shots, queries, "
            "key and number of tasks."
        )
    return mean_and_interval(a.values[name] - b.values[name])
