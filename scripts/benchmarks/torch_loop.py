"""A peer: MAML by `torch.autograd.grad`, one task after another."""

import numpy as np
import torch

from .implementation import LEARNING_RATE, Implementation
from .torch_models import Tensors, forward, from_jax, loop, loss_function
from .workloads import Tasks, Workload


def build(
    workload: Workload, params: dict[str, np.ndarray], tasks: Tasks
) -> Implementation:
    """Meta-training with a graph of the inner loop for one task at a time."""
    measure = loss_function(workload)

    def adapt(params: Tensors, inputs, targets) -> Tensors:
        for _ in range(workload.inner_steps):
            loss = measure(forward(workload, params, inputs), targets)
            grads = torch.autograd.grad(
                loss, list(params.values()), create_graph=workload.order == 2
            )
            params = {
                name: leaf - workload.inner_rate * grad
                for (name, leaf), grad in zip(params.items(), grads)
            }
        return params

    tensors = from_jax(params)
    optimizer = torch.optim.Adam(tensors.values(), lr=LEARNING_RATE)

    def step(batch: list[torch.Tensor]) -> torch.Tensor:
        optimizer.zero_grad()
        total = 0.0
        for support_inputs, support_targets, inputs, targets in zip(*batch):
            adapted = adapt(tensors, support_inputs, support_targets)
            loss = measure(forward(workload, adapted, inputs), targets)
            loss = loss / workload.num_tasks
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return total

    return loop(workload, params, tasks, tensors, step)
