"""A peer: MAML in plain JAX, `lax.conv` under `vmap`, as tutorials write it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .implementation import LEARNING_RATE, Implementation
from .jax_loop import compile_loop
from .workloads import Tasks, Workload


def forward(workload: Workload, params, inputs):
    """The network of a workload, for one batch of examples."""
    hidden = inputs
    for i in range(len(workload.hidden)):
        if workload.convolutional:
            kernel = params[f"Conv_{i}/kernel"]
            hidden = jax.lax.conv_general_dilated(
                hidden,
                kernel,
                (2, 2),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            scale, bias = params[f"Normalize_{i}/scale"], params[f"Normalize_{i}/bias"]
            hidden = normalize(hidden, scale, bias)
        else:
            hidden = linear(
                hidden, params[f"Dense_{i}/kernel"], params[f"Dense_{i}/bias"]
            )
        hidden = jax.nn.relu(hidden)
    if workload.convolutional:
        hidden = jnp.mean(hidden, (1, 2))
    return linear(hidden, params["head/kernel"], params["head/bias"])


def linear(inputs, kernel, bias):
    return inputs @ kernel + bias[None]


def normalize(inputs, scale, bias):
    """Batch normalisation by the batch at hand."""
    mean = jnp.mean(inputs, (0, 1, 2), keepdims=True)
    variance = jnp.var(inputs, (0, 1, 2), keepdims=True)
    normal = (inputs - mean) * jax.lax.rsqrt(variance + 1e-3)
    return normal * scale[None, None, None] + bias[None, None, None]


def loss(workload: Workload, params, inputs, targets):
    outputs = forward(workload, params, inputs)
    if workload.regression:
        return jnp.mean((outputs - targets) ** 2)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, targets))


def adapt(workload: Workload, params, inputs, targets):
    """Inner steps of gradient descent on the support examples."""
    for _ in range(workload.inner_steps):
        grads = jax.grad(partial(loss, workload))(params, inputs, targets)
        if workload.order == 1:
            grads = jax.lax.stop_gradient(grads)
        params = jax.tree.map(lambda p, g: p - workload.inner_rate * g, params, grads)
    return params


def build(
    workload: Workload, params: dict[str, np.ndarray], tasks: Tasks
) -> Implementation:
    """Meta-training in plain JAX."""
    optimizer = optax.adam(LEARNING_RATE)

    def task_loss(params, task):
        adapted = adapt(workload, params, task.support_inputs, task.support_targets)
        return loss(workload, adapted, task.query_inputs, task.query_targets)

    def mean_loss(params, tasks):
        return jnp.mean(jax.vmap(task_loss, (None, 0))(params, tasks))

    def step(state, tasks):
        params, opt_state = state
        value, grads = jax.value_and_grad(mean_loss)(params, tasks)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    params = jax.tree.map(jnp.asarray, params)
    state = params, optimizer.init(params)
    return compile_loop(step, state, tasks, lambda state: state[1][0].mu)
