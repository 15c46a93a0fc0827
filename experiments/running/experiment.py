"""An experiment as a value: the pure parts that the engine runs and does not look into."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
import optax

from experiments.running import measuring
from experiments.running.measuring import Measure, Measurement, Metric
from metajax.base import Key, MetaParams, Sampler
from metajax.steps import TrainState, TrainStep


class Layout(NamedTuple):
    """How devices hold the tasks of an outer step: arguments of every estimator."""

    tasks_per_chunk: int | None = None  # That a device holds at a time; None for all.
    mesh: Mesh | None = None  # Devices that share the tasks; None for a single one.


def _nothing(*arguments: Any) -> None:
    del arguments


def _no_numbers(meta: MetaParams) -> dict[str, float]:
    del meta
    return {}


def _nothing_to_know(found: Measurement) -> dict[str, Any]:
    del found
    return {}


class Experiment(NamedTuple):
    """What a run trains, chooses by and measures.

    Attributes:
      init: `key -> state`, the state before the first outer step.
      optimizer: the outer optimizer, as `init` and `step` have it.
      step: `layout -> train step`: one outer step, as the devices share its tasks.
      tasks: draws one training task from a key; its arrays are copied to each device.
      num_tasks: tasks an outer step.
      validation: what parameters are chosen by.
      test: what the chosen ones are judged on.
      metric: the one by whose mean over validation tasks they are chosen, and which
        tables put first.
      tasks_per_chunk: tasks that a device holds at a time, a divisor of its share.
      cheaper: other train steps with the same result in less memory, by what asks for
        them, such as `"--remat=step"`.
      log: `meta -> numbers`, logged by name with each validation.
      watch: `means -> None`, looks at the means of each line of the log, and may warn.
      advice: what to do where loss or gradient stay not finite, from the last metrics.
      rows: from a measurement to the rows of a result, one a place on its axis.
      table: from a result, as it is written to JSON, to text; None for the usual one.
      draw_tasks: `path -> None`, draws a few training tasks as the picture `path`.
      draw: `(meta, found, directory) -> None`, draws what came of the chosen parameters,
        with what was measured of them.
      card: `found -> what is to be known to use the chosen parameters`, as JSON, saved
        beside them; nothing where they are measured alone.
      digests: of the data that tasks are drawn from, by name, such as "training": with
        other data a run is not gone on with.
      belongs_to: what meta-parameters are to be used with, saved beside them and compared
        with those that another run starts from.
      next_steps: commands that use a finished run, by what they are for, with `DIR` for
        its directory; a run ends by printing them.
    """

    init: Callable[[Key], TrainState]
    optimizer: optax.GradientTransformation
    step: Callable[[Layout], TrainStep]
    tasks: Sampler
    num_tasks: int
    validation: Measure
    test: Measure
    metric: Metric = Metric("loss")
    tasks_per_chunk: int | None = None
    cheaper: dict[str, Callable[[Layout], TrainStep]] = {}
    log: Callable[[MetaParams], dict[str, float]] = _no_numbers
    watch: Callable[[dict[str, float]], None] = _nothing
    advice: Callable[[dict[str, float]], str] = lambda last: "a smaller outer rate"
    rows: Callable[[Measurement], list[dict]] = measuring.rows
    table: Callable[[dict], str] | None = None
    draw_tasks: Callable[[Path], None] = _nothing
    draw: Callable[[MetaParams, Measurement, Path], None] = _nothing
    card: Callable[[Measurement], Mapping[str, Any]] = _nothing_to_know
    digests: Mapping[str, str] = {}
    belongs_to: Mapping[str, str] = {}
    next_steps: Mapping[str, str] = {}
