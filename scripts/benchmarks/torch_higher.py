"""A peer: MAML by the package `higher`, one task after another."""

import warnings

import numpy as np
import torch

from .implementation import LEARNING_RATE, Implementation
from .torch_models import Network, from_jax, loop, loss_function
from .workloads import Tasks, Workload

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)  # From its docstrings.
    import higher


def build(
    workload: Workload, params: dict[str, np.ndarray], tasks: Tasks
) -> Implementation:
    """Meta-training by `higher.innerloop_ctx`."""
    measure = loss_function(workload)
    network = Network(workload)
    network.load_state_dict(from_jax(params), assign=True)
    inner = torch.optim.SGD(network.parameters(), lr=workload.inner_rate)
    outer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    second_order = workload.order == 2

    def backward(support_inputs, support_targets, inputs, targets) -> torch.Tensor:
        with higher.innerloop_ctx(
            network,
            inner,
            copy_initial_weights=not second_order,
            track_higher_grads=second_order,
        ) as (adapted, optimizer):
            for _ in range(workload.inner_steps):
                optimizer.step(measure(adapted(support_inputs), support_targets))
            loss = measure(adapted(inputs), targets) / workload.num_tasks
            if second_order:
                loss.backward()
            else:  # It cuts the path to the network, so that the gradient is moved by hand.
                grads = torch.autograd.grad(loss, list(adapted.parameters()))
                for leaf, grad in zip(network.parameters(), grads):
                    leaf.grad = grad if leaf.grad is None else leaf.grad + grad
        return loss.detach()

    def step(batch: list[torch.Tensor]) -> torch.Tensor:
        outer.zero_grad()
        total = sum(backward(*task) for task in zip(*batch))
        outer.step()
        return total

    return loop(workload, params, tasks, dict(network.named_parameters()), step)
