"""The optimizers that rules make of their meta-parameters.

This file needs JAX and optax alone: `rules.export` writes it, with the numbers of a rule,
into a file that needs no more.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any

DECAYS = (0.5, 0.9, 0.99)  # Of the momenta that a rule sees; of 0.9 and
_SQUARES, _EPSILON = 0.999, 1e-8  # of this mean square Adam is made.
TIMES = (10.0, 100.0, 1000.0, 10000.0)  # Steps by which time is told.
FEATURES = 3 + len(DECAYS)  # Of a number: gradient twice, momenta, and itself.
LAYER_FEATURES = 4


class Averages(NamedTuple):
    """What a rule remembers of the gradients."""

    steps: jax.Array
    momenta: tuple[PyTree, ...]  # One for each decay.
    squares: PyTree


def per_parameter(meta: PyTree, *, sees_layer: bool) -> optax.GradientTransformation:
    """As `rules.per_parameter` says."""

    def init(params: PyTree) -> Averages:
        zeros = optax.tree.zeros_like(params)
        return Averages(jnp.int32(0), (zeros,) * len(DECAYS), zeros)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        if params is None:
            raise ValueError(
                "per_parameter: its updates depend on the params: give them to "
                "optimizer.update(grads, state, params)."
            )
        state = _averaged(state, updates, DECAYS, _SQUARES)

        def one(*arrays):
            return _moved(meta, state.steps, sees_layer, *arrays)

        moves = jax.tree.map(one, params, updates, state.squares, *state.momenta)
        return moves, state

    return optax.GradientTransformation(init, update)


def _averaged(state: Averages, grads: PyTree, decays, squares_decay) -> Averages:
    """The averages after one more gradient, momenta of these decays."""

    def mean(decay, before: PyTree, now: PyTree) -> PyTree:
        return jax.tree.map(lambda b, n: decay * b + (1 - decay) * n, before, now)

    momenta = tuple(
        mean(d, m, grads) for d, m in zip(decays, state.momenta, strict=True)
    )
    squares = mean(squares_decay, state.squares, jax.tree.map(jnp.square, grads))
    return Averages(state.steps + 1, momenta, squares)


def _root(square: jax.Array, decay, steps: jax.Array) -> jax.Array:
    """Of a mean square that has seen so many steps.

    It is of a sum, or its derivative at zero gradients would be infinite.
    """
    return jnp.sqrt(square / (1 - decay**steps) + _EPSILON**2) + _EPSILON


def _moved(meta, count, sees_layer: bool, param, grad, square, *momenta) -> jax.Array:
    """The update of one array, each of its numbers by itself."""
    steps = count.astype(param.dtype)
    size = _root(square, _SQUARES, steps)
    means = [m / (1 - d**steps) for d, m in zip(DECAYS, momenta, strict=True)]
    each = [x / size for x in (grad, *means)] + [grad / _rms(grad), param / _rms(param)]
    # With numbers along the last axis this takes two thirds of the time.
    features = jnp.stack([x.reshape(-1) for x in each])
    scalars = [jnp.tanh(steps / time - 1) for time in TIMES]
    if sees_layer:
        sizes = _rms(grad), _rms(param), _rms(grad) / _rms(param), param.size
        scalars += [0.1 * jnp.log(jnp.asarray(x, param.dtype)) for x in sizes]
    context = jnp.stack(scalars) @ meta["scalars"] + meta["bias"]
    hidden = jnp.tanh(meta["features"].T @ features + context[:, None])
    hidden = jnp.tanh(meta["hidden"].T @ hidden)
    direction, magnitude = meta["outputs"].T @ hidden
    direction += meta["linear"] @ features
    moves = -jnp.exp(meta["log_rate"] + magnitude) * direction
    return moves.reshape(param.shape).astype(param.dtype)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)) + _EPSILON**2)


def recurrent(meta: PyTree, *, scale: float) -> optax.GradientTransformation:
    """As `rules.recurrent` says."""
    width = len(meta["weights"])

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.zeros((x.size, width), x.dtype), params)

    def one(memory: jax.Array, grad: jax.Array):
        memory = _gru(meta["gru"], memory, _seen(grad.reshape(-1)))
        moves = scale * memory @ meta["weights"]
        return memory, moves.reshape(grad.shape).astype(grad.dtype)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None):
        del params
        leaves, structure = jax.tree.flatten(updates)
        memories = structure.flatten_up_to(state)
        each = [one(m, g) for m, g in zip(memories, leaves, strict=True)]
        memories, moves = zip(*each, strict=True)
        return structure.unflatten(moves), structure.unflatten(memories)

    return optax.GradientTransformation(init, update)


def _gru(params: PyTree, memory: jax.Array, inputs: jax.Array) -> jax.Array:
    """As `models.gru` says, for many at a time, `[numbers, width]`."""

    def dense(layer: PyTree, *parts: jax.Array) -> jax.Array:
        return jnp.concatenate(parts, axis=-1) @ layer["kernel"] + layer["bias"][None]

    gates = jax.nn.sigmoid(dense(params["gates"], memory, inputs))
    reset, keep = jnp.split(gates, 2, axis=-1)
    new = jnp.tanh(dense(params["candidate"], reset * memory, inputs))
    return (keep * memory + (1 - keep) * new).astype(memory.dtype)


def _seen(grads: jax.Array) -> jax.Array:
    """Gradients of all sizes as two numbers of about one, `[numbers, 2]`."""
    least = jnp.exp(-10.0)
    large = jnp.abs(grads) >= least
    logarithm = jnp.log(jnp.where(large, jnp.abs(grads), 1.0)) / 10
    seen = (
        jnp.where(large, logarithm, -1),
        jnp.where(large, jnp.sign(grads), grads / least),
    )
    return jnp.stack(seen, axis=-1)


def scheduled_adam(meta: PyTree, *, num_steps: int) -> optax.GradientTransformation:
    """As `rules.scheduled_adam` says."""
    first, second = jax.nn.sigmoid(meta["decays"])
    # Of floats with fewer bits there is no interpolation.
    log_rates = meta["log_rates"]
    log_rates = log_rates.astype(jnp.promote_types(log_rates.dtype, jnp.float32))
    places = jnp.linspace(0, num_steps, len(log_rates), dtype=log_rates.dtype)

    def init(params: PyTree) -> Averages:
        zeros = optax.tree.zeros_like(params)
        return Averages(jnp.int32(0), (zeros,), zeros)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        before = state.steps.astype(places.dtype)
        rate = jnp.exp(jnp.interp(before, places, log_rates)).astype(first.dtype)
        steps = (before + 1).astype(first.dtype)
        state = _averaged(state, updates, (first,), second)

        def one(momentum, square):
            mean = momentum / (1 - first**steps)
            return -rate * mean / _root(square, second, steps)

        return jax.tree.map(one, state.momenta[0], state.squares), state

    return optax.GradientTransformation(init, update)
