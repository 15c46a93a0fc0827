"""What is timed: models, tasks and inner loops, in NumPy alone.

Parameters go by the names and layouts that metajax's models give them, "layer/leaf".
"""

from typing import NamedTuple

import numpy as np

NUM_BATCHES = 4  # Different batches of tasks, used in turn.


class Workload(NamedTuple):
    """A network, the tasks of an outer step, and the inner loop that learns each."""

    name: str
    input_shape: tuple[int, ...]  # Images are convolved, vectors are not.
    hidden: tuple[int, ...]  # Features of the hidden layers.
    ways: int  # Outputs; with 1, a regression.
    shots: int
    queries: int
    num_tasks: int
    inner_steps: int
    inner_rate: float
    order: int = 2

    @classmethod
    def from_json(cls, fields: list) -> "Workload":
        """From what JSON, which has no tuples, makes of a workload."""
        return cls(*(tuple(x) if isinstance(x, list) else x for x in fields))

    @property
    def convolutional(self) -> bool:
        return len(self.input_shape) == 3

    @property
    def regression(self) -> bool:
        return self.ways == 1


class Layer(NamedTuple):
    """A kernel, and the number of places of an example that it is applied to."""

    name: str
    kernel_shape: tuple[int, ...]
    places: int


class Tasks(NamedTuple):
    """Tasks ready to train on: `[batches, tasks, examples, ...]` each."""

    support_inputs: np.ndarray
    support_targets: np.ndarray
    query_inputs: np.ndarray
    query_targets: np.ndarray


_OMNIGLOT = Workload(
    name="omniglot_5way_1shot",
    input_shape=(28, 28, 1),
    hidden=(64,) * 4,
    ways=5,
    shots=1,
    queries=1,
    num_tasks=32,
    inner_steps=1,
    inner_rate=0.4,
)
_SECOND_ORDER = (
    Workload(
        name="sinusoid",
        input_shape=(1,),
        hidden=(40, 40),
        ways=1,
        shots=10,
        queries=10,
        num_tasks=25,
        inner_steps=1,
        inner_rate=0.01,
    ),
    Workload(
        name="mnist",
        input_shape=(784,),
        hidden=(128,),
        ways=10,
        shots=5,
        queries=5,
        num_tasks=32,
        inner_steps=5,
        inner_rate=0.1,
    ),
    _OMNIGLOT,
    _OMNIGLOT._replace(name="omniglot_5way_1shot_5steps", inner_steps=5),
    _OMNIGLOT._replace(
        name="omniglot_20way_5shot",
        ways=20,
        shots=5,
        queries=5,
        num_tasks=4,  # With 16, plain JAX would take minutes for a step.
        inner_steps=5,
        inner_rate=0.1,
    ),
)
_FIRST_ORDER = tuple(
    workload._replace(name=f"{workload.name}_first_order", order=1)
    for workload in _SECOND_ORDER
)
WORKLOADS = {workload.name: workload for workload in _SECOND_ORDER + _FIRST_ORDER}


def layers(workload: Workload) -> list[Layer]:
    """The layers of the network: hidden ones, then a linear head."""
    found = []
    if workload.convolutional:
        height, width, features = workload.input_shape
        for i, outputs in enumerate(workload.hidden):
            height, width = -(-height // 2), -(-width // 2)  # Stride 2.
            shape = (3, 3, features, outputs)
            found.append(Layer(f"Conv_{i}", shape, height * width))
            features = outputs
    else:
        (features,) = workload.input_shape
        for i, outputs in enumerate(workload.hidden):
            found.append(Layer(f"Dense_{i}", (features, outputs), 1))
            features = outputs
    return [*found, Layer("head", (features, workload.ways), 1)]


def initial_params(workload: Workload, dtype: str) -> dict[str, np.ndarray]:
    """Random parameters, so that no leaf of the gradient is zero by symmetry."""
    rng = np.random.default_rng(0)
    params = {}
    for name, shape, _ in layers(workload):
        fan_in = np.prod(shape[:-1])
        params[f"{name}/kernel"] = rng.normal(size=shape) / np.sqrt(fan_in)
        if name.startswith("Conv"):  # Its normalisation has the bias.
            name = name.replace("Conv", "Normalize")
            params[f"{name}/scale"] = 1 + 0.1 * rng.normal(size=shape[-1])
        params[f"{name}/bias"] = 0.1 * rng.normal(size=shape[-1])
    return {name: leaf.astype(dtype) for name, leaf in params.items()}


def draw_tasks(workload: Workload, dtype: str) -> Tasks:
    """Draws `NUM_BATCHES` batches of tasks."""
    rng = np.random.default_rng(0)
    draw = _sinusoids if workload.regression else _images
    inputs, targets = draw(rng, workload, workload.shots + workload.queries, dtype)

    def examples(array, part):
        array = array[:, :, :, part]  # [batches, tasks, ways, examples, ...]
        return np.ascontiguousarray(array).reshape(
            *array.shape[:2], -1, *array.shape[4:]
        )

    support, query = slice(workload.shots), slice(workload.shots, None)
    return Tasks(
        *[examples(x, part) for part in (support, query) for x in (inputs, targets)]
    )


def _sinusoids(rng, workload: Workload, per_class: int, dtype: str):
    shape = (NUM_BATCHES, workload.num_tasks, 1)
    amplitude = rng.uniform(0.1, 5.0, (*shape, 1, 1))
    phase = rng.uniform(0.0, np.pi, (*shape, 1, 1))
    inputs = rng.uniform(-5.0, 5.0, (*shape, per_class, 1))
    targets = amplitude * np.sin(inputs - phase)
    return inputs.astype(dtype), targets.astype(dtype)


def _images(rng, workload: Workload, per_class: int, dtype: str):
    """A coarse black and white pattern a class, of which examples differ in pixels."""
    classes = (NUM_BATCHES, workload.num_tasks, workload.ways)
    patterns = rng.random((*classes, 1, 7, 7)) < 0.3
    patterns = patterns.repeat(4, axis=-1).repeat(4, axis=-2)
    images = patterns ^ (rng.random((*classes, per_class, 28, 28)) < 0.03)
    labels = np.arange(workload.ways, dtype=np.int32)[:, None]
    return (
        images.astype(dtype).reshape(*classes, per_class, *workload.input_shape),
        np.broadcast_to(labels, (*classes, per_class)),
    )
