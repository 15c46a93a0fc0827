"""What meta-learners have in common, and what can be made of any."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax import contracts, heads, trees
from metajax.base import (
    Adapted,
    Batch,
    Key,
    MetaLearner,
    MetaParams,
    Model,
    Params,
    PyTree,
    without_padding,
)


class Scaled(NamedTuple):
    """What is meta-learned where a head's outputs are no logits yet."""

    params: Params  # Of the embedding.
    log_scale: jax.Array  # Logarithm of what the outputs are multiplied by.


def scaled_init(model: Model, scale: float) -> Callable[[Key, PyTree], Scaled]:
    """`Scaled` params to start from, `(key, inputs) -> Scaled`.

    Raises:
      ValueError: if the scale is not positive.
    """
    if not scale > 0:
        raise ValueError(
            f"scale must be positive, since its logarithm is: got {scale}."
        )
    log_scale = np.float32(np.log(scale))
    return lambda key, inputs: Scaled(model.init(key, inputs), jnp.asarray(log_scale))


def adapting_params(
    model: Model,
    adapt_params: Callable[[Key, MetaParams, Batch], Params],
    init: Callable[[Key, PyTree], MetaParams] | None = None,
    *,
    every_step: bool = False,
) -> MetaLearner:
    """A meta-learner that adapts the params of a model, and predicts with them.

        adapted = calibrate(adapt_params(key, meta, support), support.shown)
        predict(meta, adapted, inputs) = apply(adapted, inputs)

    Args:
      model: the model.
      adapt_params: from the support batch to params of the model.
      init: the initial meta-parameters; params of the model by default.
      every_step: whether `adapt_params` gives those after every inner step, leaves
        `[steps, ...]`; so are the predictions then.

    Returns:
      A meta-learner, whose adapted params are as `model.calibrate` leaves them.
    """
    contracts.check_models(model)
    calibrate, apply = model.calibrate, model.apply
    if every_step:
        calibrate, apply = (jax.vmap(f, (0, None)) for f in (calibrate, apply))

    def adapt(key: Key, meta: MetaParams, support: Batch) -> Params:
        return calibrate(adapt_params(key, meta, support), support.shown)

    def predict(meta: MetaParams, adapted: Params, inputs: PyTree) -> PyTree:
        del meta
        return apply(adapted, inputs)

    return MetaLearner(init or model.init, adapt, predict)


class Fitted(NamedTuple):
    """What a task has taught a learner that fits a head to features."""

    params: Params  # Of the embedding, as `model.calibrate` leaves them.
    head: PyTree
    counts: jax.Array  # [ways], of support examples


def fitting_head(
    model: Model,
    ways: int,
    fit: Callable[[MetaParams, jax.Array, jax.Array], PyTree],
    logits: Callable[[MetaParams, PyTree, jax.Array], jax.Array],
    init: Callable[[Key, PyTree], MetaParams] | None = None,
) -> MetaLearner:
    """A meta-learner that fits a head to the features of the support examples.

        head = fit(meta, apply(params, support.shown), memberships(support.targets))
        predict(meta, adapted, inputs) = logits(meta, head, apply(params, inputs))

    Args:
      model: an embedding, with outputs `[examples, features]`, such as `conv4(None)`.
      ways: classes a task.
      fit: `(meta, features, memberships) -> head`; see `heads.memberships`, whose rows
        of zeros are padding.
      logits: `(meta, head, features) -> [queries, ways]`.
      init: the initial meta-parameters, a tuple that has params of the model as
        `params`; by default they are these params themselves.

    Returns:
      A meta-learner whose adapted params are `Fitted`. A class without support is never
      predicted, see `heads.hide_absent`.
    """
    contracts.check_models(model)

    def params_of(meta: MetaParams) -> Params:
        return meta if init is None else meta.params

    def adapt(key: Key, meta: MetaParams, support: Batch) -> Fitted:
        del key  # Nothing is random.
        # By the same pass as the calibration, whose statistics are those of this batch.
        features = model.apply(params_of(meta), support.shown)
        features = without_padding(features, support.mask)
        members = heads.memberships(support.targets, ways, support.mask, features.dtype)
        params = model.calibrate(params_of(meta), support.shown)
        return Fitted(params, fit(meta, features, members), members.sum(axis=0))

    def predict(meta: MetaParams, adapted: Fitted, inputs: PyTree) -> jax.Array:
        features = model.apply(adapted.params, inputs)
        return heads.hide_absent(logits(meta, adapted.head, features), adapted.counts)

    return MetaLearner(init or model.init, adapt, predict)


def freeze(learner: MetaLearner, paths: trees.Paths) -> MetaLearner:
    """A meta-learner some of whose meta-parameters stay as they are.

    Under estimators that differentiate, their meta-gradient is zero and costs nothing.
    The inner loop may still adapt them, unless `adjoints.only` keeps it from it.

    Args:
      learner: the meta-learner.
      paths: which meta-parameters, by their paths; see `trees.split`.

    Returns:
      A meta-learner with the same functions otherwise.

    Raises:
      ValueError: when traced, if nothing matches.

    Note:
      Weight decay, `estimators.displacement` and `estimators.evolution` move them all
      the same: give those `optax.set_to_zero()` for them, by `optax.partition`.

    Example:
      A pre-trained body, of which the head alone is meta-learned and adapted:

      >>> body = ["Conv_*", "Normalize_*"]
      >>> learner = freeze(anil(model, loss, optimizer, 5), body)  # doctest: +SKIP
      >>> state = init_state(key, learner, optax.adam(1e-3), data)  # doctest: +SKIP
      >>> meta = trees.load("backbone.npz", state.meta)  # doctest: +SKIP
      >>> state = state._replace(meta=meta)  # doctest: +SKIP
    """

    def frozen(meta: MetaParams) -> MetaParams:
        some, others = trees.split(meta, paths)
        return trees.merge(jax.lax.stop_gradient(some), others)

    def adapt(key: Key, meta: MetaParams, support: Batch) -> Adapted:
        return learner.adapt(key, frozen(meta), support)

    def predict(meta: MetaParams, adapted: Adapted, inputs: PyTree) -> PyTree:
        return learner.predict(frozen(meta), adapted, inputs)

    return MetaLearner(learner.init, adapt, predict)


def descend(
    rates: PyTree, *, per_step: bool = False, clip: float | None = None
) -> optax.GradientTransformation:
    """Gradient descent at given rates, which may be meta-learned.

        update = -rates * max(-clip, min(gradient, clip))

    Args:
      rates: one scalar for all params, or a tree like them, whose leaves are of their
        shape or scalars. With `per_step` each leaf has a leading axis, `[steps, ...]`.
      per_step: whether each inner step has rates of its own. Steps beyond the last one
        use those of the last.
      clip: the greatest size of each number of a gradient; None for no bound.

    Returns:
      An optax transformation.

    Raises:
      ValueError: if `clip` is not positive.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"Gradients are cut to a positive size: got clip={clip}.")

    def update(updates, state, params=None):  # Gradients, and how many there were.
        del params
        now = at_step(rates, state) if per_step else rates
        if jax.tree_util.treedef_is_leaf(jax.tree.structure(now)):
            return jax.tree.map(lambda grad: -now * grad, updates), state + 1
        return trees.map_given(lambda grad, rate: -rate * grad, updates, now), state + 1

    descent = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    return descent if clip is None else optax.chain(optax.clip(clip), descent)


def side_by_side(inputs: jax.Array, others: jax.Array) -> jax.Array:
    """Flattened inputs, and vectors beside them, `[examples, features]`."""
    return jnp.concatenate([inputs.reshape(len(inputs), -1), others], axis=1)


def at_step(per_step: PyTree, step: jax.Array | int) -> PyTree:
    """What a step has of its own, leaves `[steps, ...]`; beyond the last, that one's."""
    return jax.tree.map(lambda x: x[jnp.minimum(step, len(x) - 1)], per_step)
