"""Models that learn a task by reading its support set, for `in_context`.

What such a model has read it keeps as `Calibrated` statistics, so that it is a `Model` like
others: `calibrate` reads examples, `apply` answers for new inputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import (
    Calibrated,
    Masked,
    Model,
    Params,
    PyTree,
    without_padding,
)
from metajax.models.transformer import Block, KeysAndValues


class Transformer(nn.Module):
    """Blocks over pairs of features and targets, whose keys and values are the memory.

    A place without a target is a question: it sees pairs and itself, and no pair sees
    it. Questions are answered all at once, each as if alone.
    """

    outputs: int
    width: int
    layers: int
    heads: int
    length: int | None

    def setup(self):
        self.inputs = nn.Dense(self.width)
        self.targets = nn.Dense(self.width, use_bias=False)
        self.block = [Block(self.heads) for _ in range(self.layers)]
        self.norm = nn.LayerNorm()
        self.head = nn.Dense(self.outputs)
        if self.length is not None:
            self.positions = nn.Embed(self.length + 1, self.width)

    def read(
        self, features: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> tuple[list[KeysAndValues], jax.Array]:
        """Keys and values of each block, of all examples, and which of them are real."""
        if self.length is not None and len(mask) > self.length:
            raise ValueError(
                f"in_context_transformer: {len(mask)} examples are more than its length, "
                f"{self.length}."
            )
        tokens = self._embed(features, jnp.cumsum(mask) - 1) + self.targets(targets)
        allowed = jnp.broadcast_to(mask[None], (len(mask), len(mask)))
        if self.length is not None:
            allowed &= jnp.tri(len(mask), dtype=bool)
        memory = []
        for block in self.block:
            tokens, kept = block.attend(tokens, allowed[None])
            memory.append(kept)
        return memory, mask

    def answer(self, memory, features: jax.Array) -> jax.Array:
        """Outputs for features that come after all that was read."""
        kept, mask = memory
        seen = jnp.broadcast_to(mask[None], (len(features), len(mask)))
        return self._answer(kept, seen, features, jnp.sum(mask))

    def answer_each(
        self, features: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Outputs for each example, as if those before it were all there is."""
        if self.length is None:
            raise ValueError(
                "in_context_transformer reads examples in no order, and cannot answer "
                "along a sequence: give it a length."
            )
        kept, mask = self.read(features, targets, mask)
        before = jnp.tri(len(mask), k=-1, dtype=bool) & mask[None]
        return self._answer(kept, before, features, jnp.sum(before, axis=1))

    def _answer(self, kept, seen, features, places):
        tokens = self._embed(features, places)
        allowed = jnp.concatenate([seen, jnp.eye(len(tokens), dtype=bool)], axis=1)
        for block, memory in zip(self.block, kept):
            tokens, _ = block.attend(tokens, allowed[None], memory)
        return self.head(self.norm(tokens))

    def _embed(self, features, places):
        tokens = self.inputs(features)
        if self.length is None:
            return tokens
        positions = self.positions(jnp.maximum(places, 0))
        return tokens + jnp.broadcast_to(positions, tokens.shape)


def in_context_transformer(
    outputs: int,
    *,
    width: int,
    layers: int,
    heads: int,
    length: int | None = None,
) -> Model:
    """A transformer that learns from the examples it attends to, with no inner loop.

        token of an example:  inputs(features) + targets(target) [+ positions[place]]
        token of a question:  inputs(features)                   [+ positions[place]]

    Examples attend to examples, questions to examples and to themselves. Reading leaves
    the keys and values of each block: examples go through it once, however many
    questions there are.

    Args:
      outputs: classes a task, or dimensions of real targets.
      width: the width of a token, a multiple of `heads`.
      layers: blocks; see `transformer.Block`.
      heads: attention heads of a block.
      length: None for the set form, in which all examples see each other and their order
        does not matter. A number for the causal form: each example sees those before it,
        places have learned positions, and so many examples at most can be read.

    Returns:
      A reader, see `from_reader`. Answers along a sequence need the causal form.

    Raises:
      ValueError: if a size is not positive, or if heads do not divide the width; when
        there are too many examples to read.

    Example:
      >>> reader = in_context_transformer(5, width=8, layers=2, heads=2)
      >>> features, labels = jnp.ones((10, 3)), jnp.arange(10) % 5
      >>> def answers(key, questions):
      ...     params = reader.init(key, features)
      ...     read = reader.calibrate(params, (features, labels))
      ...     return reader.apply(read, questions)
      >>> jax.eval_shape(answers, jax.random.key(0), jnp.ones((4, 3))).shape
      (4, 5)

    Source:
      Garg et al. 2022 (arXiv 2208.01066), section 2, and Kirsch et al. 2022 (arXiv
      2212.04458), section 3, for the causal form; Mueller et al. 2022 (arXiv 2112.10510),
      section 3, for the set form.

    Note:
      An input and its target are one token, as in the third; the first puts them one
      after the other, the second shows an input beside the target before it.
    """
    sizes = outputs, width, layers, heads, 1 if length is None else length
    if min(sizes) < 1 or width % heads:
        raise ValueError(
            "in_context_transformer: outputs, width, layers, heads and length must be "
            f"positive, and heads must divide width: got {sizes}."
        )
    return from_reader(Transformer(outputs, width, layers, heads, length))


class LinearAttention(nn.Module):
    """One head of attention without softmax, whose memory is a matrix."""

    outputs: int
    width: int

    def setup(self):
        self.keys = nn.Dense(self.width, use_bias=False)
        self.values = nn.Dense(self.outputs, use_bias=False)
        self.queries = nn.Dense(self.width, use_bias=False)

    def read(
        self, features: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """The mean outer product of keys and values, `[width, outputs]`."""
        tokens = jnp.concatenate([features, targets], axis=1)
        values = jnp.where(mask[:, None], self.values(tokens), 0)
        count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
        return self.keys(tokens).T @ values / count

    def answer(self, memory: jax.Array, features: jax.Array) -> jax.Array:
        """Outputs for features, `[questions, outputs]`."""
        return self.queries(features) @ memory


def linear_attention(outputs: int, *, width: int) -> Model:
    """One layer of linear attention, which can be one step of gradient descent.

        output = queries(x)^T  mean_i keys([x_i, y_i]) values([x_i, y_i])^T

    With keys(.) = x_i, values(.) = y_i and queries(.) = rate * x this is linear
    regression after one step from zero, `rate * x^T mean_i x_i y_i^T`.

    Args:
      outputs: dimensions of the targets.
      width: of keys and queries.

    Returns:
      A reader, see `from_reader`; order does not matter to it.

    Raises:
      ValueError: if a size is not positive.

    Source:
      von Oswald et al. 2023 (arXiv 2212.07677), section 3, with one head.

    Note:
      Question tokens do not attend to themselves, and no residual is added: both would
      only add functions of x alone.
    """
    if min(outputs, width) < 1:
        raise ValueError(
            f"linear_attention: sizes must be positive: got {outputs}, {width}."
        )
    return from_reader(LinearAttention(outputs, width))


def from_reader(module: nn.Module) -> Model:
    """A Linen module that reads examples and answers questions, as a model.

    Args:
      module: has an attribute `outputs` and the methods `read(features, targets, mask)
        -> memory` and `answer(memory, features) -> outputs`; and, if examples have an
        order, `answer_each(features, targets, mask) -> outputs`, which answers for each
        as if those before it were all there is. Targets come as vectors.

    Returns:
      A model of features `[examples, features]`:

        init(key, features) -> params
        calibrate(params, (features, targets)) -> Calibrated(params, memory)
        apply(Calibrated(params, memory), features) -> outputs
        apply(params, (features, targets)) -> outputs along a sequence

      Pairs may come as `Masked`. Targets are labels, `[examples]`, integers, which
      become one-hot vectors, or real, `[examples, outputs]`.
    """

    def init(key: jax.Array, inputs: jax.Array) -> Params:
        targets = jnp.zeros((len(inputs), module.outputs), inputs.dtype)
        variables = module.init(
            key, *_examples((inputs, targets)), method=read_and_answer
        )
        return variables["params"]

    def read_and_answer(module, features, targets, mask):
        return module.answer(module.read(features, targets, mask), features)

    def calibrate(params: Params, inputs: PyTree) -> Calibrated:
        memory = module.apply({"params": params}, *_examples(inputs), method="read")
        return Calibrated(params, memory)

    def apply(params: Params | Calibrated, inputs: PyTree) -> PyTree:
        if not isinstance(params, Calibrated):
            if not hasattr(module, "answer_each"):
                raise ValueError(
                    f"{type(module).__name__} reads examples in no order, and cannot "
                    "answer along a sequence."
                )
            variables = {"params": params}
            return module.apply(variables, *_examples(inputs), method="answer_each")
        variables = {"params": params.params}
        return module.apply(variables, params.statistics, inputs, method="answer")

    def _examples(inputs: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Features, targets as vectors, both zero where there is padding, and the mask."""
        inputs, mask = inputs if isinstance(inputs, Masked) else (inputs, None)
        features, targets = inputs
        if mask is None:
            mask = jnp.ones(len(features), bool)
        if jnp.issubdtype(targets.dtype, jnp.integer):
            targets = jax.nn.one_hot(targets, module.outputs, dtype=features.dtype)
        return *without_padding((features, targets), mask), mask

    return Model(init, apply, calibrate)
