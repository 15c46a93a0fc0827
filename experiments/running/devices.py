"""Which devices share the tasks of a step, or the seeds, and where arrays are put."""

from functools import partial
import math
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.running.experiment import Experiment, Layout
from experiments.running.options import Options
import metajax as mj
from metajax import training
from metajax.base import PyTree


class Devices(NamedTuple):
    """The devices of a run."""

    number: int
    mesh: Mesh | None  # None for a single one.
    num_seeds: int
    share: int  # The most tasks that one of them takes in an outer step.
    tasks_per_chunk: int | None  # As in `Layout`.
    divides_state: bool

    @property
    def layout(self) -> Layout:
        """That of the tasks; devices that divide seeds share none."""
        mesh = self.mesh if self.num_seeds == 1 else None
        return Layout(self.tasks_per_chunk, mesh)

    @property
    def seeds(self) -> training.Seeds | None:
        """How the seeds are trained together, where there are several."""
        if self.num_seeds == 1:
            return None
        # Wider batches are of no use to the core of a CPU.
        at_a_time = 1 if jax.default_backend() == "cpu" else None
        return training.Seeds(at_a_time, self.mesh)


def choose(experiment: Experiment, options: Options) -> Devices:
    """The devices asked for, or as many as are of use.

    They share the tasks; or the seeds where there are several, which need not talk.

    Raises:
      ValueError: if the number asked for does not suit.
    """
    if options.num_seeds > 1:
        number, share = _number_for_seeds(options), experiment.num_tasks
        devices = jax.devices()[:number]
        mesh = jax.make_mesh((number,), ("seeds",), (AxisType.Auto,), devices=devices)
    else:
        number = _number_for_tasks(experiment, options.num_devices)
        share = _share(experiment.num_tasks, number)
        mesh = mj.estimators.task_mesh(number)
    if number == 1:
        mesh = None
    divides_state = options.divide_state and not options.eval_only
    if divides_state and mesh is None:
        raise ValueError(
            "--divide_state is for a run on several devices, and this one takes one: see "
            "--num_devices and --num_tasks."
        )
    chunk = experiment.tasks_per_chunk
    return Devices(number, mesh, options.num_seeds, share, chunk, divides_state)


def _number_for_seeds(options: Options) -> int:
    available = range(1, jax.device_count() + 1)
    fitting = [n for n in available if options.num_seeds % n == 0]
    number = options.num_devices or fitting[-1]
    if number not in fitting:
        raise ValueError(
            f"--num_devices={number} does not do for --num_seeds={options.num_seeds}: "
            f"choose one of {', '.join(map(str, fitting))}."
        )
    return number


def _number_for_tasks(experiment: Experiment, asked: int | None) -> int:
    tasks, chunk = experiment.num_tasks, experiment.tasks_per_chunk or 1
    available = range(1, min(jax.device_count(), tasks) + 1)
    if jax.process_count() > 1:  # None of them can be left out.
        available = [jax.device_count()]
    fitting = [n for n in available if _share(tasks, n) % chunk == 0]
    if not fitting:
        raise ValueError(
            f"{tasks} tasks in chunks of {chunk} do not fit the {jax.device_count()} "
            "devices of all processes: set --tasks_per_chunk to a divisor of "
            f"{_share(tasks, jax.device_count())}."
        )
    number = asked or min(fitting, key=partial(_share, tasks))
    if number not in fitting:
        raise ValueError(
            f"--num_devices={number} does not do: with {tasks} tasks in chunks of {chunk}, "
            f"and {jax.device_count()} devices here, choose one of "
            f"{', '.join(map(str, fitting))}."
        )
    return number


def _share(num_tasks: int, number: int) -> int:
    return math.ceil(num_tasks / number)


def place(devices: Devices, tree: PyTree) -> PyTree:
    """Copies arrays to each of the devices that share the tasks, or the seeds."""
    return _put(tree, devices.mesh and NamedSharding(devices.mesh, PartitionSpec()))


def place_progress(devices: Devices, progress: PyTree) -> PyTree:
    """Copies progress to each of the devices, or divides it among them."""
    if devices.divides_state:
        return _put(progress, training.divided(progress, devices.mesh))
    if devices.num_seeds > 1:
        spec = PartitionSpec("seeds")
        return _put(progress, devices.mesh and NamedSharding(devices.mesh, spec))
    placed = place(devices, progress)
    if devices.mesh is None or progress.state.carried == ():
        return placed
    # What an estimator carries of each task is where a step leaves it: for arrays that
    # come from elsewhere, the step would be compiled once more.
    carried = jax.tree.map(partial(_of_tasks, devices), progress.state.carried)
    carried = _put(progress.state.carried, carried)
    return placed._replace(state=placed.state._replace(carried=carried))


def _of_tasks(devices: Devices, leaf: jax.Array) -> NamedSharding:
    divides = jnp.ndim(leaf) and len(leaf) % devices.number == 0
    spec = PartitionSpec(devices.mesh.axis_names) if divides else PartitionSpec()
    return NamedSharding(devices.mesh, spec)


def _put(tree: PyTree, sharding: PyTree) -> PyTree:
    if sharding is None:
        return tree
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # device_put reaches no other process; a program does.
    return jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=sharding)(tree)


def stack_seeds(devices: Devices, each: list[PyTree]) -> PyTree:
    """The progress of all seeds from that of each."""
    (progress, *others) = each
    if others:
        progress = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return place_progress(devices, progress)


def each_seed(devices: Devices, progress: PyTree) -> list[PyTree]:
    """The progress of each seed, on all of the devices."""
    if devices.num_seeds == 1:
        return [progress]
    return [
        place(devices, jax.tree.map(itemgetter(i), progress))
        for i in range(devices.num_seeds)
    ]
