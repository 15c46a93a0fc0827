"""Policies: without memory, with one, and with one for each part of what they see."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Key, Model, Params, Recurrent
from metajax.models.recurrent import scanned
from metajax.rl.actions import Normal, among
from metajax.rl.base import (
    Continuous,
    Decision,
    Discrete,
    Memory,
    Policy,
    Seen,
    vector,
)

View = Callable[[Seen], jax.Array]


def everything(actions: Discrete | Continuous) -> View:
    """What is seen of one decision as a vector, for `remembering`.

        [observation, led_to, action, reward, first, begins, log(1 + left)]

    Args:
      actions: of the environment; discrete ones come as one-hot vectors, of zeros where a
        trial begins.

    Returns:
      `seen -> [features]`.
    """

    def view(seen: Seen) -> jax.Array:
        action = seen.action
        if isinstance(actions, Discrete):
            action = jax.nn.one_hot(action, actions.number) * ~seen.begins
        return vector(
            seen.observation,
            seen.led_to,
            action,
            seen.reward,
            seen.first,
            seen.begins,
            time_left(seen),
        )

    return view


def observation_alone(seen: Seen) -> jax.Array:
    """The observation as a vector, `[features]`, for policies without memory."""
    return vector(seen.observation)


def time_left(seen: Seen) -> jax.Array:
    """How long the trial lasts, by its logarithm, about 0 to 1 up to a hundred steps."""
    return jnp.log1p(jnp.maximum(seen.left, 0).astype(jnp.float32)) / 5


class Heads(NamedTuple):
    """Params of what decides by features."""

    actions: Params
    value: Params
    log_std: jax.Array | None  # Of continuous actions.


def reactive(
    model: Callable[[int], Model],
    actions: Discrete | Continuous,
    view: View = observation_alone,
    *,
    log_std: float = 0.0,
) -> Policy:
    """A policy without memory, which sees what is now and no more.

    Args:
      model: from a number of outputs to a model of features `[examples, features]`, such
        as `lambda outputs: models.mlp([64, 64], outputs)`. One gives the logits or means
        of actions, another the value.
      actions: of the environment.
      view: what it sees.
      log_std: logarithm of the initial standard deviation of continuous actions, which is
        a parameter.

    Returns:
      A policy.
    """
    acting, judging = model(_outputs(actions)), model(1)

    def init(key: Key, seen: Seen) -> Heads:
        keys, features = jax.random.split(key), jax.vmap(view)(seen)
        spread = None
        if isinstance(actions, Continuous):
            spread = jnp.full(actions.size, log_std)
        value = judging.init(keys[1], features)
        return Heads(acting.init(keys[0], features), value, spread)

    def apply(params: Heads, seen: Seen) -> Decision:
        features = jax.vmap(view)(seen)
        outputs = acting.apply(params.actions, features)
        value = judging.apply(params.value, features)[:, 0]
        if params.log_std is None:
            return Decision(among(outputs, seen.legal), value)
        return Decision(
            Normal(outputs, jnp.broadcast_to(params.log_std, outputs.shape)), value
        )

    def step(params: Heads, memory: tuple, seen: Seen) -> tuple[tuple, Decision]:
        one = apply(params, jax.tree.map(lambda x: x[None], seen))
        return memory, jax.tree.map(lambda x: x[0], one)

    return Policy(init, lambda params: (), step, apply)


class Remembering(NamedTuple):
    """Params of `remembering` and `per_part`."""

    memory: Params
    heads: Heads


def remembering(
    memory: Recurrent, heads: Callable[[int], Model], actions: Discrete, view: View
) -> Policy:
    """A policy with one memory of all that it sees.

    Args:
      memory: such as `models.gru(64)`.
      heads: from a number of outputs to a model of the memory's outputs,
        `[examples, width]`, such as `lambda outputs: models.mlp([], outputs)`.
      actions: of the environment.
      view: what it sees, such as `everything(actions)`.

    Returns:
      A policy.
    """
    deciding = reactive(heads, actions, lambda seen: seen.observation)

    def shown(outputs: jax.Array, seen: Seen) -> Seen:
        return seen._replace(observation=outputs)

    def init(key: Key, seen: Seen) -> Remembering:
        memory_key, head_key = jax.random.split(key)
        one = jax.tree.map(lambda x: x[0], seen)
        params = memory.init(memory_key, view(one))
        _, outputs = memory.step(params, memory.start(params), view(one))
        one = jax.tree.map(lambda x: x[None], shown(outputs, one))
        return Remembering(params, deciding.init(head_key, one))

    def start(params: Remembering) -> Memory:
        return memory.start(params.memory)

    def step(params: Remembering, kept: Memory, seen: Seen):
        kept, outputs = memory.step(params.memory, kept, view(seen))
        return kept, deciding.step(params.heads, (), shown(outputs, seen))[1]

    def apply(params: Remembering, seen: Seen) -> Decision:
        views = jax.vmap(view)(seen)
        outputs = memory.apply(params.memory, views, seen.begins)
        # All at once, since one large product is quicker than many small ones.
        return deciding.apply(params.heads, shown(outputs, seen))

    return Policy(init, start, step, apply)


def per_part(
    memory: Recurrent,
    heads: Callable[[int], Model],
    parts: int,
    view: View,
    about: View | None = None,
) -> Policy:
    """A policy with one memory for each part of what it sees, and weights that all share.

        memory[p], outputs[p] = step(memory[p], [view(seen)[p], mean_q memory[q]])
        features[p] = [outputs[p], view(seen)[p]]
        logit[a] = head([sum_p about(seen)[a, p] features[p], mean_p outputs[p]])

    It treats parts alike, so that what it learns of one it knows of all, and learned
    params serve any number of parts.

    Args:
      memory: such as `models.gru(16)`, whose memory is one vector.
      heads: as in `remembering`.
      parts: how many: arms of a bandit, or lines of a board.
      view: what each part sees, `seen -> [parts, features]`.
      about: how much each action is about each part, `seen -> [actions, parts]`; None if
        action p is about part p, as pulls are about arms.

    Returns:
      A policy of discrete actions.

    Source:
      Zaheer et al. 2017 (Deep Sets, arXiv 1703.06114), section 3, for layers that treat
      parts alike.
    """
    scoring, judging = heads(1), heads(1)
    start, remember = _memories(memory, parts, view)
    of_actions = _of_actions(view, about)

    def init(key: Key, seen: Seen) -> Remembering:
        memory_key, *keys = jax.random.split(key, 3)
        one = jax.tree.map(lambda x: x[0], seen)
        kept = start(None)
        params = memory.init(memory_key, _inputs(view, kept, one)[0])
        _, outputs = remember(params, kept, one)
        actions = scoring.init(keys[0], of_actions(outputs, one))
        value = judging.init(keys[1], outputs)
        return Remembering(params, Heads(actions, value, None))

    def decide(params: Remembering, outputs: jax.Array, seen: Seen) -> Decision:
        """Of outputs `[decisions, parts, width]`."""
        rows = jax.vmap(of_actions)(outputs, seen)
        logits = scoring.apply(params.heads.actions, rows.reshape(-1, rows.shape[2]))
        value = judging.apply(params.heads.value, jnp.mean(outputs, axis=1))[:, 0]
        return Decision(among(logits.reshape(rows.shape[:2]), seen.legal), value)

    def step(params: Remembering, kept: jax.Array, seen: Seen):
        kept, outputs = remember(params.memory, kept, seen)
        one = jax.tree.map(lambda x: x[None], seen)
        decision = decide(params, outputs[None], one)
        return kept, jax.tree.map(lambda x: x[0], decision)

    def apply(params: Remembering, seen: Seen) -> Decision:
        outputs = scanned(start, remember)(params.memory, seen, seen.begins)
        return decide(params, outputs, seen)

    return Policy(init, lambda params: start(params.memory), step, apply)


def _inputs(view: View, kept: jax.Array, seen: Seen) -> jax.Array:
    """What each part's memory is told, `[parts, features]`: its view, and all others."""
    mean = jnp.broadcast_to(jnp.mean(kept, axis=0), kept.shape)
    return jnp.concatenate([view(seen), mean], axis=1)


def _memories(memory: Recurrent, parts: int, view: View):
    """`start` and `step` of one memory for each part, by the params that they share."""

    def start(params: Params) -> jax.Array:
        one = memory.start(params)
        return jnp.broadcast_to(one, (parts, *one.shape))

    def remember(params: Params, kept: jax.Array, seen: Seen):
        each = jax.vmap(memory.step, (None, 0, 0))
        return each(params, kept, _inputs(view, kept, seen))

    return start, remember


def _of_actions(view: View, about: View | None):
    """From the parts' outputs to features of each action, `[actions, features]`."""

    def of_actions(outputs: jax.Array, seen: Seen) -> jax.Array:
        features = jnp.concatenate([outputs, view(seen)], axis=1)
        features = features if about is None else about(seen) @ features
        mean = jnp.mean(outputs, axis=0)
        beside = jnp.broadcast_to(mean, (len(features), len(mean)))
        return jnp.concatenate([features, beside], axis=1)

    return of_actions


def _outputs(actions: Discrete | Continuous) -> int:
    return actions.number if isinstance(actions, Discrete) else actions.size
