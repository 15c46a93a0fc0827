"""A transformer over the cells of a table, which attends along rows and along columns."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Model
from metajax.models import kernels
from metajax.models.readers import from_reader

_HIDDEN = -1e9  # Logits of classes that no row has.


class Read(NamedTuple):
    """What was read of a table: rows to compare others with, and what layers keep."""

    features: jax.Array  # `[rows, columns]`, NaN where missing.
    mask: jax.Array  # `[rows]`
    moments: jax.Array  # `[2, outputs]`: mean and deviation of targets, or counts.
    experts: kernels.Fitted
    layers: list  # Keys and values of each, `[columns, heads, rows, depth]`.


class Layer(nn.Module):
    """Cells attend to their row, then to their column, and an MLP follows.

    Attributes:
      heads: attention heads; they share the width.
      last: whether the target's column, which comes last, is all that is asked for.
    """

    heads: int
    last: bool = False

    @nn.compact
    def __call__(self, cells, present, mask, memory=None):
        """Maps cells `[rows, columns, width]` to the same shape, or to the last column.

        Args:
          cells: one embedding a cell.
          present: which columns there are, `[columns]`.
          mask: which rows are attended to, `[rows]`: of these, or of those in memory.
          memory: keys and values of other rows, to attend to in place of these.

        Returns:
          The cells, and the keys and values of their columns.
        """
        width = cells.shape[-1]

        def projected(cells, name, asked=0):
            normal = nn.LayerNorm(use_bias=False, name=f"norm_{name}")(cells)
            keys_values = nn.Dense(2 * width, name=f"seen_{name}")(normal)
            queries = nn.Dense(width, name=f"asked_{name}")(normal[:, asked:])
            keys, values = jnp.split(keys_values, 2, axis=-1)
            return [
                x.reshape(*x.shape[:2], self.heads, -1) for x in (queries, keys, values)
            ]

        asked = cells.shape[1] - 1 if self.last else 0
        queries, keys, values = projected(cells, "row", asked)
        seen = _along_rows(queries, keys, values, present)
        cells = cells[:, asked:] + nn.Dense(width, name="mix_row")(seen)
        queries, *own = (x.transpose(1, 2, 0, 3) for x in projected(cells, "column"))
        keys, values = own if memory is None else memory
        scores = queries @ keys.swapaxes(-1, -2) * queries.shape[-1] ** -0.5
        scores = jnp.where(mask[None, None, None], scores, _HIDDEN)
        seen = (nn.softmax(scores) @ values).transpose(2, 0, 1, 3).reshape(cells.shape)
        cells += nn.Dense(width, name="mix_column")(seen)
        normal = nn.LayerNorm(use_bias=False, name="norm_mlp")(cells)
        hidden = nn.gelu(nn.Dense(2 * width, name="expand")(normal))
        return cells + nn.Dense(width, name="contract")(hidden), own


def _along_rows(queries, keys, values, present):
    """Attention among the few cells of each row, `[rows, columns, heads, depth]` each.

    By sums rather than by products of tiny matrices, which CPUs are slow at.
    """
    scores = jnp.sum(queries[:, :, None] * keys[:, None], axis=-1)
    scores = scores * queries.shape[-1] ** -0.5
    scores = jnp.where(present[None, None, :, None], scores, _HIDDEN)
    weights = nn.softmax(scores, axis=2)[..., None]
    seen = jnp.sum(weights * values[:, None], axis=2)
    return seen.reshape(*seen.shape[:2], -1)


class TableTransformer(nn.Module):
    """Layers over the cells of tables, the target's column among them.

    Attributes:
      classes: the bound of labels; None for a real target.
      width: of a cell.
      layers: how many.
      heads: of each.
    """

    classes: int | None
    width: int
    layers: int
    heads: int

    @property
    def outputs(self) -> int:
        """Dimensions of targets, as `from_reader` gives them."""
        return self.classes or 1

    def setup(self):
        self.cell = nn.Dense(self.width)
        self.target = nn.Dense(self.width, use_bias=False)
        self.guess = nn.Dense(self.width)
        self.size = nn.Dense(self.width)
        self.unknown = self.param("unknown", nn.initializers.normal(), (self.width,))
        self.scales = self.param("scales", nn.initializers.ones, (kernels.NUM_EXPERTS,))
        self.layer = [
            Layer(self.heads, last=i == self.layers - 1) for i in range(self.layers)
        ]
        self.norm = nn.LayerNorm()
        self.head = nn.Dense(self.classes or 2, kernel_init=nn.initializers.zeros)

    def read(self, features: jax.Array, targets: jax.Array, mask: jax.Array) -> Read:
        """Reads rows with targets, `[rows, columns]` and `[rows, outputs]`."""
        features = jnp.where(mask[:, None], features, jnp.nan)
        count = jnp.maximum(mask.sum(), 1).astype(targets.dtype)
        if self.classes is None:
            mean = targets.sum(axis=0) / count
            centered = jnp.where(mask[:, None], targets - mean[None], 0)
            std = jnp.sqrt(jnp.square(centered).sum(axis=0) / count) + 1e-6
            targets, moments = centered / std[None], jnp.stack([mean, std])
        else:
            moments = jnp.broadcast_to(targets.sum(axis=0), (2, self.classes))
        seen = kernels.view(features, features)
        experts, guess = kernels.fit(seen, targets, mask)
        read = Read(features, mask, moments, experts, [])
        cells = self._cells(read, seen, guess, self.target(targets))
        present, kept = self._present(features), []
        for layer in self.layer:
            cells, own = layer(cells, present, mask)
            kept.append(own)
        return read._replace(layers=kept)

    def answer(self, read: Read, features: jax.Array):
        """Logits, or mean and standard deviation, for other rows."""
        seen = kernels.view(read.features, features)
        guess = kernels.guess(read.experts, seen)
        unknown = jnp.broadcast_to(self.unknown[None], (len(features), self.width))
        cells = self._cells(read, seen, guess, unknown)
        present = self._present(read.features)
        for layer, memory in zip(self.layer, read.layers):
            cells, _ = layer(cells, present, read.mask, memory)
        out = self.head(self.norm(cells[:, 0]))
        blend = jnp.sum(guess * self.scales[:, None, None], axis=0)
        if self.classes is not None:
            return jnp.where(read.moments[:1] > 0, out + blend, _HIDDEN)
        mean, std = read.moments[:, None]
        found = out[:, :1] + blend / kernels.NUM_EXPERTS
        return found * std + mean, (nn.softplus(out[:, 1:]) + 1e-3) * std

    def _present(self, features: jax.Array) -> jax.Array:
        """Columns of which a value is known, and the target's, `[columns + 1]`."""
        known = jnp.any(~jnp.isnan(features), axis=0)
        return jnp.append(known, True)

    def _cells(self, read, seen, guess, target) -> jax.Array:
        rows = len(target)
        experts = guess.transpose(1, 0, 2).reshape(rows, -1)
        columns = jnp.sum(self._present(read.features))
        size = jnp.log(jnp.stack([read.mask.sum(), columns]).astype(target.dtype) + 1)
        target = target + self.guess(experts) + self.size(size)[None]
        return jnp.concatenate([self.cell(seen), target[:, None]], axis=1)


def table_transformer(
    classes: int | None, *, width: int, layers: int, heads: int
) -> Model:
    """A transformer that reads tables, cell by cell, and predicts their last column.

        cell of a feature:  its value in the light of its column
        cell of a target:   it, or that it is unknown, and what ridge regressions guess

    Cells attend to those of their row, then to those of their column, of rows that have a
    target. Predictions are those of ridge regressions, blended, plus what the cell of the
    target has come to: the network learns to correct them. The order of rows, and that of
    columns, does not matter.

    Args:
      classes: the bound of the number of classes; labels are below. None for real targets,
        `[rows, 1]`, of which mean and standard deviation are predicted.
      width: of a cell, a multiple of `heads`.
      layers: how many.
      heads: attention heads.

    Returns:
      A reader, see `from_reader`, of features `[rows, columns]`, any numbers of both. NaN
      is a missing value. A column without a value is as if it were absent; a class that no
      row has is never predicted.

    Raises:
      ValueError: if a size is none, or heads do not divide the width.

    Source:
      Hollmann et al. 2025 (TabPFN v2, Nature 637), for attention in two directions.

    Note:
      Each feature is seen both in units of its column's spread and by its rank, so that
      neither outliers nor bent scales count for much. The ridge regressions, linear and
      with two Gaussian kernels, are guessed from the other rows for rows that are read,
      in closed form.
    """
    sizes = 2 if classes is None else classes, width, layers, heads
    if min(sizes) < 1 or width % heads or sizes[0] < 2:
        raise ValueError(
            "table_transformer: width, layers and heads must be positive, classes at "
            "least 2 or None, and heads must divide width: got "
            f"{(classes, width, layers, heads)}."
        )
    return from_reader(TableTransformer(classes, width, layers, heads))
