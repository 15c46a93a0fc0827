"""Any flax module as a `Model`: a pair of pure functions over a plain tree of params."""

from collections.abc import Callable
import inspect

from flax import errors, nnx
import flax.linen as nn
import jax

from metajax.base import Calibrated, Masked, Model, Params, PyTree


def from_linen(module: nn.Module) -> Model:
    """A Linen module as a model.

    Args:
      module: a module that is called with inputs `[examples, ...]` and, if it has such
        an argument, `mask=`, which tells real examples from padding, `[examples]`;
        without it each example must be treated alone. It may keep normalisation
        statistics in a collection named "statistics", as `layers.Normalize` does, but no
        other state. Dropout must be off (`deterministic=True`): a model has no key.

    Returns:
      A model whose params are the plain dict of the collection "params".

    Raises:
      ValueError: by `init`, if the module keeps other state, such as running averages;
        when called, if it draws random numbers.

    Example:
      >>> model = from_linen(nn.Dense(10))
      >>> params = model.init(jax.random.key(0), jax.numpy.ones((1, 784)))
      >>> params["kernel"].shape
      (784, 10)
    """
    takes_mask = "mask" in inspect.signature(module.__call__).parameters

    def call(function: Callable, variables: PyTree, inputs: PyTree, **options):
        if not isinstance(inputs, Masked):
            return function(variables, inputs, **options)
        options |= {"mask": inputs.mask} if takes_mask else {}
        return function(variables, inputs.inputs, **options)

    def evaluate(*args, **options):
        try:
            return module.apply(*args, **options)
        except errors.InvalidRngError:
            raise ValueError(_random("from_linen")) from None

    def init(key: jax.Array, inputs: PyTree) -> Params:
        variables = call(module.init, key, inputs)
        state = sorted(set(variables) - {"params", "statistics"})
        if state:
            raise ValueError(
                f"from_linen: the module keeps state in {', '.join(state)}, which a "
                "model cannot carry. Use layers.Normalize in place of BatchNorm, or "
                "write init and apply by hand."
            )
        return variables.get("params", {})

    def apply(params: Params, inputs: PyTree) -> PyTree:
        if isinstance(params, Calibrated):
            return call(evaluate, params._asdict(), inputs)
        return call(evaluate, {"params": params}, inputs)

    def calibrate(params: Params, inputs: PyTree) -> Params:
        params = params.params if isinstance(params, Calibrated) else params
        variables = {"params": params}
        _, state = call(evaluate, variables, inputs, mutable=["statistics"])
        return Calibrated(params, state["statistics"]) if state else params

    return Model(init, apply, calibrate)


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """An NNX module as a model.

    Args:
      build: makes the module from its random streams: `lambda rngs: Net(rngs=rngs)`.

    Returns:
      A model whose params are the module's `nnx.Param` state. Other variables keep the
      values they are built with, and what a call changes in them is dropped: BatchNorm
      in training mode normalises by the batch at hand, which is transductive. Masks
      are not passed on: padding would count there. Dropout must be off, as after
      `module.eval()`: a model has no key.

    Raises:
      ValueError: when called, if the module draws random numbers.

    Example:
      >>> model = from_nnx(lambda rngs: nnx.Linear(784, 10, rngs=rngs))
      >>> params = model.init(jax.random.key(0), None)
      >>> model.apply(params, jax.numpy.ones((2, 784))).shape
      (2, 10)
    """
    graph, _, rest = nnx.split(build(nnx.Rngs(0)), nnx.Param, ...)

    def init(key: jax.Array, inputs: PyTree) -> Params:
        del inputs  # An NNX module is given its sizes when built.
        return nnx.state(build(nnx.Rngs(key)), nnx.Param)

    def apply(params: Params, inputs: PyTree) -> PyTree:
        if isinstance(inputs, Masked):
            inputs = inputs.inputs
        # A copy, since a library BatchNorm would update variables of another trace.
        module = nnx.merge(graph, params, rest, copy=True)
        counts = _counts(module)
        outputs = module(inputs)
        # From the streams that it was built with, the same numbers at each call.
        if any(a is not b for a, b in zip(counts, _counts(module), strict=True)):
            raise ValueError(_random("from_nnx"))
        return outputs

    return Model(init, apply)


def _counts(module: nnx.Module) -> list[jax.Array]:
    """How often each random stream of a module was drawn from."""
    return jax.tree.leaves(nnx.state(module, nnx.RngCount))


def _random(adapter: str) -> str:
    return (
        f"{adapter}: the module draws random numbers when called, as Dropout does, and a "
        "model has no key for them: build it with deterministic=True, or, of nnx, call its "
        "eval() first."
    )
