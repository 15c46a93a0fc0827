"""The small trainings that a rule is learned on, and judged on beside Adam."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.running.measuring import Measure, Measurement, Report, on_tasks
import metajax as mj
from metajax.base import Key, MetaParams, Params, Rule, Sampler

RATES = np.geomspace(1e-4, 1.0, 14).astype(np.float32)  # That Adam is tuned over.
EPSILON = 1e-16  # Under Adam's root, as `rules` have it.


class Networks(NamedTuple):
    """What is trained in a task: a perceptron, on images brought to half their size."""

    hidden: int
    layers: int
    ways: int
    batch: int  # Images a step.

    @property
    def model(self) -> mj.Model:
        return mj.models.mlp([self.hidden] * self.layers, self.ways)

    def init(self, key: Key, task: mj.Task) -> Params:
        return self.model.init(key, _halved(task.support.inputs[:1]))

    def loss(self, key: Key, params: Params, examples: mj.Batch) -> jax.Array:
        """The cross-entropy of a minibatch, of those examples that the key draws."""
        places = jax.random.randint(key, (self.batch,), 0, len(examples.targets))
        drawn = jax.tree.map(lambda x: x[places], examples)
        return self.loss_on_all(params, drawn)

    def loss_on_all(self, params: Params, examples: mj.Batch) -> jax.Array:
        outputs = self.model.apply(params, _halved(examples.inputs))
        return mj.losses.cross_entropy(outputs, examples.targets)


def _halved(images: jax.Array) -> jax.Array:
    number, height, width, channels = images.shape
    squares = images.reshape(number, height // 2, 2, width // 2, 2, channels)
    return squares.mean(axis=(2, 4))


def dynamics(networks: Networks, rule: Rule, judged_by: str) -> mj.unrolls.Dynamics:
    """A training by a rule; each step costs its own loss, or that of other images."""

    def loss(key: Key, params: Params, task: mj.Task) -> jax.Array:
        return networks.loss(key, params, task.support)

    def query_loss(key: Key, params: Params, task: mj.Task) -> jax.Array:
        return networks.loss(key, params, task.query)

    judged = query_loss if judged_by == "query" else None
    return mj.rules.training(rule, networks.init, loss, judged=judged)


# From a key, an optimizer and a task to the losses on all images at some steps.
Trained = Callable[[Key, optax.GradientTransformation, mj.Task], dict[str, jax.Array]]


def trained(networks: Networks, places: Sequence[int]) -> Trained:
    """Trains a network by any optimizer, and looks at it after some numbers of steps.

    Args:
      networks: what is trained.
      places: the numbers, ascending, with the same distance between neighbours, from 0.
    """
    between = places[1] - places[0]

    def run(key: Key, optimizer: optax.GradientTransformation, task: mj.Task):
        init_key, key = jax.random.split(key)
        params = networks.init(init_key, task)

        def step(carry, index):
            params, state = carry
            step_key = jax.random.fold_in(key, index)
            grads = jax.grad(networks.loss, argnums=1)(step_key, params, task.support)
            moves, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, moves), state), None

        def look(params):
            return {
                "train": networks.loss_on_all(params, task.support),
                "test": networks.loss_on_all(params, task.query),
            }

        def stretch(carry, first):
            carry, _ = jax.lax.scan(step, carry, first + jnp.arange(between))
            return carry, look(carry[0])

        carry = params, optimizer.init(params)
        _, later = jax.lax.scan(stretch, carry, jnp.array(places[:-1]))
        first = jax.tree.map(lambda x: x[None], look(params))
        return jax.tree.map(lambda *x: jnp.concatenate(x), first, later)

    return run


def adam(rate: jax.Array) -> optax.GradientTransformation:
    """Adam at a rate."""
    return optax.adam(rate, eps_root=EPSILON)


def cosine_adam(rate: jax.Array, num_steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls from one to zero along a cosine."""

    def falling(count):
        return rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / num_steps, 1)))

    return optax.chain(
        optax.scale_by_adam(eps_root=EPSILON),
        optax.scale_by_schedule(lambda count: -falling(count)),
    )


def baselines(num_steps: int) -> dict[str, Callable[..., optax.GradientTransformation]]:
    """By name, what rules are held against: from a rate to an optimizer."""
    return {"adam": adam, "cosine": partial(cosine_adam, num_steps=num_steps)}


def best_rates(
    networks: Networks, sampler: Sampler, num_steps: int, seed: int, num_tasks: int
) -> dict[str, float]:
    """The rates of the baselines whose last training loss is least on validation tasks."""
    run = trained(networks, (0, num_steps))
    makers = baselines(num_steps)

    def objective(key: Key, meta: MetaParams, task: mj.Task):
        del meta

        def last(make, rate):
            return run(key, make(rate), task)["train"][-1]

        each = {
            name: jax.lax.map(partial(last, make), jnp.asarray(RATES))
            for name, make in makers.items()
        }
        return jnp.float32(0), each

    found = mj.evaluate(
        *(objective, (), sampler), key=jax.random.key(seed), num_tasks=num_tasks
    )
    means = {k: np.mean(v, axis=0, dtype=np.float64) for k, v in found.values.items()}
    return {name: float(RATES[np.nanargmin(mean)]) for name, mean in means.items()}


def judged(
    networks: Networks,
    rule: Rule,
    sampler: Sampler,
    tune: Callable[[], dict[str, float]],
    places: Sequence[int],
    *,
    seed: int,
    num_tasks: int,
) -> Measure:
    """The losses of a rule and of tuned baselines along the same trainings.

    Args:
      networks: what is trained.
      rule: the rule.
      sampler: draws one task from a key.
      tune: finds the baselines' rates, when they are first needed.
      places: numbers of steps, as in `trained`.
      seed: fixes the tasks.
      num_tasks: how many.
    """
    run, makers = trained(networks, places), baselines(places[-1])

    def objective(key: Key, meta, task: mj.Task):
        meta, rates = meta
        optimizers = {"rule": rule.optimizer(meta)}
        optimizers |= {name: make(rates[name]) for name, make in makers.items()}
        found = {name: run(key, each, task) for name, each in optimizers.items()}
        losses = {f"{name}_{k}": x for name, f in found.items() for k, x in f.items()}
        return losses["rule_train"][-1], losses

    found_on = on_tasks(
        sampler,
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
