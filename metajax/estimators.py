"""From an objective on one task to a meta-gradient over many.

Here, and in training and evaluation, is where the task axis lives.
"""

import jax
import jax.numpy as jnp

from metajax.base import Estimator, Key, MetaParams, Objective, Task


def backprop(objective: Objective, *, tasks_per_chunk: int | None = None) -> Estimator:
    """The gradient of the mean objective over tasks, by reverse mode.

        d/d meta  mean_i objective(key_i, meta, task_i)

    Args:
      objective: what one task costs.
      tasks_per_chunk: how many tasks are differentiated at a time. The chunks follow
        one another, so memory is that of one chunk; the result is the same to rounding.
        None takes all at once.

    Returns:
      An estimator: `(key, meta, tasks) -> ((loss, metrics), gradient)`, with loss and
      metrics averaged over tasks.

    Raises:
      ValueError: by the estimator, if the chunk does not divide the number of tasks.

    Note:
      The mean is differentiated rather than gradients averaged: one gradient of the
      meta-parameters is held, not one a task.
    """
    if tasks_per_chunk is not None and tasks_per_chunk < 1:
        raise ValueError(f"tasks_per_chunk must be at least 1: got {tasks_per_chunk}.")

    def mean_objective(meta: MetaParams, keys: Key, tasks: Task):
        each = jax.vmap(objective, in_axes=(0, None, 0))(keys, meta, tasks)
        return jax.tree.map(lambda values: jnp.mean(values, axis=0), each)

    mean_and_grad = jax.value_and_grad(mean_objective, has_aux=True)

    def estimate(key: Key, meta: MetaParams, tasks: Task):
        num_tasks = len(jax.tree.leaves(tasks)[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_tasks))
        chunk = num_tasks if tasks_per_chunk is None else tasks_per_chunk
        if num_tasks % chunk:
            raise ValueError(
                f"tasks_per_chunk={chunk} does not divide the {num_tasks} tasks; choose "
                f"a divisor of {num_tasks}."
            )
        if chunk == num_tasks:
            return mean_and_grad(meta, keys, tasks)

        def add_chunk(total, chunk_inputs):
            part = mean_and_grad(meta, *chunk_inputs)
            return jax.tree.map(jnp.add, total, part), None

        num_chunks = num_tasks // chunk
        chunks = jax.tree.map(
            lambda x: x.reshape(num_chunks, chunk, *x.shape[1:]), (keys, tasks)
        )
        first = jax.tree.map(lambda x: x[0], chunks)
        shapes = jax.eval_shape(mean_and_grad, meta, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add_chunk, zeros, chunks)
        return jax.tree.map(lambda x: x / num_chunks, total)

    return estimate
