"""metajax, as a user would call it, with the settings that were found to be fastest."""

import math
import os
from typing import NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj
from metajax.base import Adjoint

from .implementation import LEARNING_RATE, Implementation
from .jax_loop import compile_loop
from .workloads import Tasks, Workload


class Settings(NamedTuple):
    """What leaves the result as it is, but not time and memory."""

    tasks_per_chunk: int | None = None
    device_per_core: bool = False  # Tasks are divided among them.
    adjoint: Adjoint = mj.adjoints.unroll()


# On a CPU, by the name of the second-order workload.
SETTINGS = {
    "omniglot_5way_1shot": Settings(tasks_per_chunk=1, device_per_core=True),
    "omniglot_5way_1shot_5steps": Settings(tasks_per_chunk=1, device_per_core=True),
    "omniglot_20way_5shot": Settings(tasks_per_chunk=1, device_per_core=True),
}


def build(
    workload: Workload, params: dict[str, np.ndarray], tasks: Tasks
) -> Implementation:
    """Meta-training by metajax."""
    settings = SETTINGS.get(workload.name.removesuffix("_first_order"), Settings())
    num_devices = 1
    if settings.device_per_core:
        num_devices = math.gcd(os.cpu_count(), workload.num_tasks)
        jax.config.update("jax_num_cpu_devices", num_devices)
    if jax.default_backend() != "cpu":
        settings, num_devices = Settings(), 1
    second_order = workload.order == 2
    adjoint = settings.adjoint if second_order else mj.adjoints.unroll(last=0)
    if workload.convolutional:
        model = mj.models.conv4(workload.ways, width=workload.hidden[0])
    else:
        model = mj.models.mlp(workload.hidden, workload.ways)
    loss = mj.losses.squared_error if workload.regression else mj.losses.cross_entropy
    learner = mj.maml(
        model,
        loss,
        optax.sgd(workload.inner_rate),
        workload.inner_steps,
        adjoint=adjoint,
    )
    share = workload.num_tasks // num_devices
    estimator = mj.estimators.backprop(
        mj.query_loss(learner, loss),
        tasks_per_chunk=math.gcd(settings.tasks_per_chunk or share, share),
        mesh=mj.estimators.task_mesh(num_devices) if num_devices > 1 else None,
    )
    optimizer = optax.adam(LEARNING_RATE)
    train_step = mj.train_step(estimator, optimizer)

    def step(state, tasks):
        state, metrics = train_step(state, tasks)
        return state, metrics["loss"]

    meta = jax.tree.map(jnp.asarray, unflatten_dict(params, sep="/"))
    state = mj.TrainState(jnp.int32(0), jax.random.key(0), meta, optimizer.init(meta))
    batches = mj.Task(mj.Batch(*tasks[:2]), mj.Batch(*tasks[2:]))
    return compile_loop(
        step, state, batches, lambda state: flatten_dict(state.opt_state[0].mu, sep="/")
    )
