"""What a rule is judged by: trainings by it, and by others at their best rates."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.optimizers import optimizer
from experiments.running.measuring import Measure, Measurement, Report, on_tasks
import metajax as mj
from metajax.base import Key, MetaParams, PyTree, Rule
from metajax.problems import Problem

RATES = np.geomspace(1e-4, 1.0, 14).astype(np.float32)  # That others are tuned over.
LEAST = 1e-6  # Below which losses are not told apart.
COSINE = "_cosine"  # Ends the names of those whose rate falls along a cosine.

Baseline = Callable[[jax.Array], optax.GradientTransformation]  # From a rate.


def baseline(name: str, num_steps: int) -> Baseline:
    """An optimizer that rules are held against, such as "adam" or "adam_cosine".

    Args:
      name: one of `optimizers.NAMES`, or a factory of one's own; with `COSINE` behind it,
        the rate falls to zero along a cosine.
      num_steps: after which it is zero.

    Raises:
      ValueError: if there is no such optimizer.
    """
    plain, falls = name.removesuffix(COSINE), name.endswith(COSINE)

    def make(rate: jax.Array) -> optax.GradientTransformation:
        def falling(count: jax.Array) -> jax.Array:
            share = jnp.minimum(count / num_steps, 1)
            return rate * 0.5 * (1 + jnp.cos(jnp.pi * share))

        return optimizer(plain, falling if falls else rate, [])

    make(jnp.float32(1))  # Says what is wrong with the name.
    return make


# From a key, an optimizer and a task to the losses on all examples at some steps.
Trained = Callable[[Key, optax.GradientTransformation, PyTree], dict[str, jax.Array]]


def trained(problem: Problem, places: Sequence[int]) -> Trained:
    """Trains by any optimizer, and looks at the losses after some numbers of steps.

    Args:
      problem: what is trained.
      places: the numbers, ascending, with the same distance between neighbours, from 0.
    """
    between = places[1] - places[0]

    def run(key: Key, optimizer: optax.GradientTransformation, task: PyTree):
        init_key, key = jax.random.split(key)
        params = problem.init(init_key, task)

        def step(carry, index):
            params, state = carry
            step_key = jax.random.fold_in(key, index)
            grads = jax.grad(problem.loss, argnums=1)(step_key, params, task)
            moves, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, moves), state), None

        def stretch(carry, first):
            carry, _ = jax.lax.scan(step, carry, first + jnp.arange(between))
            return carry, problem.losses(carry[0], task)

        carry = params, optimizer.init(params)
        _, later = jax.lax.scan(stretch, carry, jnp.array(places[:-1]))
        first = jax.tree.map(lambda x: x[None], problem.losses(params, task))
        return jax.tree.map(lambda *x: jnp.concatenate(x), first, later)

    return run


def best_rates(
    problem: Problem,
    baselines: Mapping[str, Baseline],
    num_steps: int,
    *,
    by: str,
    seed: int,
    num_tasks: int,
) -> dict[str, float]:
    """The rates with which baselines have the least last loss on some tasks.

    Args:
      problem: draws the tasks.
      baselines: by name.
      num_steps: of each training.
      by: the loss that counts, "train" or "test".
      seed: fixes the tasks.
      num_tasks: how many.
    """
    run = trained(problem, (0, num_steps))

    def objective(key: Key, meta: MetaParams, task: PyTree):
        del meta

        def last(make: Baseline, rate: jax.Array) -> jax.Array:
            return run(key, make(rate), task)[by][-1]

        each = {
            name: jax.lax.map(partial(last, make), jnp.asarray(RATES))
            for name, make in baselines.items()
        }
        return jnp.float32(0), each

    key = jax.random.key(seed)
    found = mj.evaluate(objective, (), problem.sample, key=key, num_tasks=num_tasks)
    logs = {
        k: np.log(np.maximum(v, LEAST)).mean(axis=0) for k, v in found.values.items()
    }
    return {name: float(RATES[np.nanargmin(mean)]) for name, mean in logs.items()}


def judged(
    problem: Problem,
    rule: Rule,
    baselines: Mapping[str, Baseline],
    tune: Callable[[], dict[str, float]],
    places: Sequence[int],
    *,
    seed: int,
    num_tasks: int,
) -> Measure:
    """The losses of a rule and of tuned baselines along the same trainings.

    Args:
      problem: what is trained.
      rule: the rule.
      baselines: by name.
      tune: finds their rates, when they are first needed.
      places: numbers of steps, as in `trained`.
      seed: fixes the tasks.
      num_tasks: how many.
    """
    run = trained(problem, places)

    def objective(key: Key, meta, task: PyTree):
        meta, rates = meta
        optimizers = {"rule": rule.optimizer(meta)}
        optimizers |= {name: make(rates[name]) for name, make in baselines.items()}
        found = {name: run(key, each, task) for name, each in optimizers.items()}
        losses = {f"{name}_{k}": x for name, f in found.items() for k, x in f.items()}
        return losses["rule_train"][-1], losses

    found_on = on_tasks(
        problem.sample,
        {tuple(places): objective},
        axis="inner steps",
        seed=seed,
        num_tasks=num_tasks,
        tasks_per_chunk=min(num_tasks, 20),
    )

    def with_rates(meta: MetaParams, report: Report) -> Measurement:
        rates = {name: np.float32(rate) for name, rate in tune().items()}
        found = found_on((meta, rates), report)
        return found._replace(more=rates)

    return found_on._replace(measure=with_rates)
