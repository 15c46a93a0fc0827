"""Learning an update rule by a Python loop over outer steps, as libraries for it do.

Images are drawn on the host for each window, one jit takes all pairs of trainings through
it, and another makes the outer step: the way of google/learned_optimization, written anew
with the same rule, sizes and estimator. The library itself is a way, too, where it can be
imported.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj


class Setting(NamedTuple):
    """Sizes."""

    num_tasks: int = 8
    hidden: int = 32
    batch: int = 32
    window: int = 20
    horizon: int = 200


def images() -> tuple[np.ndarray, np.ndarray]:
    """Noise in the sizes of MNIST at half of them, with labels."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 600)
    return random.random((6000, 14, 14, 1), np.float32), labels


def available() -> dict[str, Callable[[Setting, int], Callable[[], Any]]]:
    """The ways there are here, by name."""
    ways = {
        "a loop of windows": loop_of_windows,
        "a loop of inner steps": loop_of_steps,
    }
    if find_spec("learned_optimization"):
        from scripts.benchmarks import rule_library

        ways["learned_optimization"] = rule_library.loop
    return ways


def loop_of_windows(setting: Setting, num_steps: int) -> Callable[[], Any]:
    """One jit a window, fed from the host."""
    return _loop(setting, num_steps, per_step=False)


def loop_of_steps(setting: Setting, num_steps: int) -> Callable[[], Any]:
    """One jit an inner step, fed from the host."""
    return _loop(setting, num_steps, per_step=True)


def _loop(setting: Setting, num_steps: int, *, per_step: bool) -> Callable[[], Any]:
    inputs, labels = images()
    random, std = np.random.default_rng(0), 0.01
    model, rule = mj.models.mlp([setting.hidden], 10), mj.rules.per_parameter(16)
    optimizer = optax.adam(1e-3)

    def loss(params, batch):
        return mj.losses.cross_entropy(model.apply(params, batch[0]), batch[1])

    def inner(meta, state, batch):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        moves, opt_state = rule.optimizer(meta).update(grads, opt_state, params)
        return (optax.apply_updates(params, moves), opt_state), value

    def each_task(meta, noise, states, batches):
        """One step of all pairs, whose states are `[tasks, 2, ...]`."""

        def pair(noise, states, batch):
            ends = jax.tree.map(lambda m, e: jnp.stack([m + e, m - e]), meta, noise)
            return jax.vmap(inner, (0, 0, None))(ends, states, batch)

        return jax.vmap(pair)(noise, states, batches)

    one_step = jax.jit(each_task)

    @jax.jit
    def one_window(meta, noise, states, batches):
        def step(states, batch):
            return each_task(meta, noise, states, batch)

        states, losses = jax.lax.scan(step, states, batches)
        return states, losses.mean(axis=0)

    @jax.jit
    def draw(key, meta):
        def one(key):
            return optax.tree.scale(std, optax.tree.random_like(key, meta))

        return jax.vmap(one)(jax.random.split(key, setting.num_tasks))

    @jax.jit
    def gradient(summed, noise, losses):
        summed = optax.tree.add(summed, noise)
        slopes = (losses[:, 0] - losses[:, 1]) / (2 * std**2) / setting.num_tasks
        return summed, jax.tree.map(lambda e: jnp.tensordot(slopes, e, 1), summed)

    @jax.jit
    def outer(meta, state, grads):
        moves, state = optimizer.update(grads, state)
        return optax.apply_updates(meta, moves), state

    @jax.jit
    def begin(key):
        params = model.init(key, jnp.asarray(inputs[:1]))
        state = params, rule.optimizer(rule.init(key)).init(params)
        size = setting.num_tasks, 2
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*size, *x.shape)), state)

    def batches():
        size = setting.window, setting.num_tasks, setting.batch
        places = random.integers(0, len(labels), size)
        return inputs[places], labels[places]

    key = jax.random.key(0)
    meta = rule.init(key)
    outer_state, states = optimizer.init(meta), begin(key)
    summed = jax.tree.map(jnp.zeros_like, draw(key, meta))

    def go():
        nonlocal key, meta, outer_state, states, summed
        for index in range(num_steps):
            key, noise_key, begin_key = jax.random.split(key, 3)
            if index % (setting.horizon // setting.window) == 0:
                states, summed = begin(begin_key), jax.tree.map(jnp.zeros_like, summed)
            noise, window = draw(noise_key, meta), batches()
            if per_step:
                values = []
                for place in range(setting.window):
                    batch = tuple(x[place] for x in window)
                    states, value = one_step(meta, noise, states, batch)
                    values.append(value)
                losses = jnp.stack(values).mean(axis=0)
            else:
                states, losses = one_window(meta, noise, states, window)
            summed, grads = gradient(summed, noise, losses)
            meta, outer_state = outer(meta, outer_state, grads)
        return losses

    return go
