"""metajax, as a user would call it, with the settings that were found to be fastest."""

from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.running import startup
import metajax as mj

from .implementation import LEARNING_RATE, Implementation
from .jax_loop import compile_loop
from .workloads import Tasks, Workload


def build(
    workload: Workload, params: dict[str, np.ndarray], tasks: Tasks
) -> Implementation:
    """Meta-training by metajax; images on a CPU one task at a time on each core."""
    if jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", startup.num_cores())
    divided = not workload.regression and jax.default_backend() == "cpu"
    num_devices = min(jax.device_count(), workload.num_tasks) if divided else 1
    adjoint = mj.adjoints.unroll(last=None if workload.order == 2 else 0)
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
    estimator = mj.estimators.backprop(
        mj.query_loss(learner, loss),
        tasks_per_chunk=1 if divided else None,
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
