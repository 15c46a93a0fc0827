"""Classification through random linear maps: as many different tasks as are wanted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Batch, Key, Task
from metajax.data.class_arrays import ClassArrays
from metajax.data.few_shot import distinct, shown_first


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Projections:
    """Draws tasks that see images through a linear map, and a naming of the classes.

        inputs = pixels @ map,    map[i, j] ~ N(0, 1 / number of pixels)
        targets = permutation[class]

    Pixels are flattened, and scaled to mean 0 and variance 1 in each image. A learner can
    remember few maps; where there are enough it has to learn from the support set, which
    it then can do under maps that it has never met.

    Attributes:
      data: images by class, `[examples, height, width, channels]`.
      shots: support examples, of any class, in random order.
      queries: query examples, likewise.
      num_maps: how many maps there are, each with a permutation of its own; None for new
        ones in every task.
      size: height and width to which images are brought by averaging; None to leave them.

    Raises:
      ValueError: if a number is not positive, if there are fewer examples than a task
        takes, or if images cannot be brought to the size.

    Source:
      Kirsch et al. 2022 (arXiv 2212.04458), section 4.

    Note:
      The authors' code scales pixels by their statistics in a batch, which shows each
      example something of the others.

    Example:
      >>> few = Projections(data, 50, 1, num_maps=64, size=14)  # doctest: +SKIP
      >>> unseen = Projections(data, 50, 1, size=14)  # doctest: +SKIP
    """

    data: ClassArrays
    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    num_maps: int | None = dataclasses.field(default=None, metadata={"static": True})
    size: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        if not isinstance(self.data, ClassArrays):
            return  # JAX rebuilds the sampler around placeholders.
        numbers = self.shots, self.queries, self.num_maps, self.size
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError(
                "Projections: shots, queries, num_maps and size must be at least 1: got "
                f"{', '.join(map(str, numbers))}."
            )
        shape = self.data.inputs.shape[1:]
        if len(shape) != 3 or (self.size and any(n % self.size for n in shape[:2])):
            raise ValueError(
                "Projections needs images [examples, height, width, channels] whose height "
                f"and width `size` divides: got {self.data.inputs.shape}, size={self.size}."
            )
        counts = self.data.counts
        if isinstance(counts, np.ndarray) and counts.sum() < self.shots + self.queries:
            raise ValueError(
                f"{self.shots} shots + {self.queries} queries are more examples than the "
                f"{counts.sum()} there are."
            )

    def __call__(self, key: Key) -> Task:
        example_key, map_key = jax.random.split(key)
        if self.num_maps is not None:
            index = jax.random.randint(map_key, (), 0, self.num_maps)
            map_key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), index)
        inputs, classes = self._examples(example_key)
        weight_key, name_key = jax.random.split(map_key)
        pixels = inputs.shape[1]
        weights = jax.random.normal(weight_key, (pixels, pixels)) / pixels**0.5
        names = jax.random.permutation(name_key, self.data.num_classes)
        return shown_first(Batch(inputs @ weights, names[classes]), self.shots)

    def _examples(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Distinct examples, as vectors of mean 0 and variance 1, and their classes."""
        ends = jnp.cumsum(jnp.asarray(self.data.counts))
        picks = distinct(key, ends[-1], self.shots + self.queries)
        classes = jnp.searchsorted(ends, picks, side="right")
        within = picks - (ends - jnp.asarray(self.data.counts))[classes]
        images = self.data.inputs[jnp.asarray(self.data.rows)[classes, within]]
        images = images.astype(jnp.float32)
        if self.size is not None:
            height, width = (n // self.size for n in images.shape[1:3])
            blocks = len(images), self.size, height, self.size, width, -1
            images = images.reshape(blocks).mean(axis=(2, 4))
        vectors = images.reshape(len(images), -1)
        centred = vectors - vectors.mean(axis=1, keepdims=True)
        variance = jnp.mean(centred**2, axis=1, keepdims=True)
        # An image of one colour becomes zeros.
        return centred * jax.lax.rsqrt(jnp.where(variance > 0, variance, 1)), classes
