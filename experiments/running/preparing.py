"""An experiment on its devices: what is trained, and how far it has come."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.running import devices as on
from experiments.running.devices import Devices
from experiments.running.experiment import Experiment
from experiments.running.options import Options
import metajax as mj
from metajax import training, trees
from metajax.base import Sampler


class Progress(NamedTuple):
    """What a checkpoint holds; with several seeds stacked, leaves `[seeds, ...]`."""

    state: mj.TrainState
    best: Any  # The meta-parameters that scored best on the validation tasks.
    best_step: jax.Array
    best_score: jax.Array
    seconds: jax.Array  # Spent on training, validation not counted.


class Prepared(NamedTuple):
    """An experiment, ready to be trained."""

    experiment: Experiment
    devices: Devices
    step: training.TrainStep
    tasks: Sampler  # With its arrays on all devices.


def prepare(experiment: Experiment, options: Options) -> tuple[Prepared, Progress]:
    """Puts an experiment on its devices, with the progress of a run that has not begun.

    Raises:
      ValueError: if the devices do not suit.
    """
    devices = on.choose(experiment, options)
    tasks = on.place(devices, jax.device_put(training.as_pytree(experiment.tasks)))
    prepared = Prepared(experiment, devices, train_step(experiment, devices), tasks)
    states = [experiment.init(jax.random.key(seed)) for seed in options.seeds]
    return prepared, on.stack_seeds(devices, list(map(_begin, states)))


def train_step(
    experiment: Experiment, devices: Devices, cheaper: str | None = None
) -> training.TrainStep:
    """The outer step of an experiment, or a cheaper form of it."""
    make = experiment.step if cheaper is None else experiment.cheaper[cheaper]
    step = make(devices.layout)
    return training.keep_divided(step, devices.mesh) if devices.divides_state else step


def start_from_file(prepared: Prepared, progress: Progress, path: str) -> Progress:
    """The progress of a run that has not begun, with parameters of another."""

    def start(state: mj.TrainState) -> Progress:
        meta = trees.load(path, state.meta, prepared.experiment.belongs_to)
        opt_state = prepared.experiment.optimizer.init(meta)
        return _begin(state._replace(meta=meta, opt_state=opt_state))

    each = on.each_seed(prepared.devices, progress)
    return on.stack_seeds(prepared.devices, [start(one.state) for one in each])


def _begin(state: mj.TrainState) -> Progress:
    return Progress(
        state,
        best=jax.tree.map(jnp.copy, state.meta),  # Training gives up state's buffers.
        best_step=jnp.int32(0),
        best_score=jnp.float32(-math.inf),
        seconds=jnp.float32(0),
    )


def advance(
    prepared: Prepared, state: mj.TrainState, num_steps: int, at_most: int
) -> tuple[mj.TrainState, mj.base.Metrics]:
    """Takes outer steps: `mj.train`."""
    return mj.train(
        prepared.step,
        state,
        prepared.tasks,
        num_tasks=prepared.experiment.num_tasks,
        num_steps=num_steps,
        at_most=at_most,
        seeds=prepared.devices.seeds,
    )


def trace(prepared: Prepared, state: mj.TrainState, at_most: int) -> jax.stages.Traced:
    """The program of the next outer steps, which `advance` will find traced."""
    return training.trace(
        prepared.step,
        state,
        prepared.tasks,
        num_tasks=prepared.experiment.num_tasks,
        at_most=at_most,
        seeds=prepared.devices.seeds,
    )
