"""The networks of the workloads in PyTorch, and what its three peers share.

Kernels are transposed to PyTorch's layouts, and images have their channels first.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from .implementation import Implementation
from .workloads import NUM_BATCHES, Tasks, Workload, layers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
EPSILON = 1e-3  # Of the normalisation.

Tensors = dict[str, torch.Tensor]


def batch_norm(inputs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor):
    """Normalisation by the batch at hand."""
    return F.batch_norm(inputs, None, None, scale, bias, training=True, eps=EPSILON)


def forward(
    workload: Workload,
    params: Tensors,
    inputs: torch.Tensor,
    normalize: Callable = batch_norm,
) -> torch.Tensor:
    """The network of a workload as a function of its parameters."""
    hidden = inputs
    for i in range(len(workload.hidden)):
        if workload.convolutional:
            hidden = F.conv2d(pad(hidden), params[f"Conv_{i}.weight"], stride=2)
            scale, bias = params[f"Normalize_{i}.weight"], params[f"Normalize_{i}.bias"]
            hidden = normalize(hidden, scale, bias)
        else:
            weight, bias = params[f"Dense_{i}.weight"], params[f"Dense_{i}.bias"]
            hidden = F.linear(hidden, weight, bias)
        hidden = F.relu(hidden)
    if workload.convolutional:
        hidden = hidden.mean((2, 3))
    return F.linear(hidden, params["head.weight"], params["head.bias"])


def pad(images: torch.Tensor) -> torch.Tensor:
    """Pads as "SAME" of JAX does for kernels of 3 and strides of 2: more at the end."""
    height, width = (n % 2 for n in images.shape[-2:])
    return F.pad(images, (width, 1, height, 1))


class Network(nn.Module):
    """The same network as a module, with the same names."""

    def __init__(self, workload: Workload):
        super().__init__()
        for name, shape, _ in layers(workload):
            if name.startswith("Conv"):
                conv = nn.Conv2d(*shape[2:], kernel_size=3, stride=2, bias=False)
                norm = nn.BatchNorm2d(shape[3], eps=EPSILON, track_running_stats=False)
                self.add_module(name, conv)
                self.add_module(name.replace("Conv", "Normalize"), norm)
            else:
                self.add_module(name, nn.Linear(*shape))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = inputs
        for name, layer in self.named_children():
            if name == "head" and hidden.ndim == 4:
                hidden = hidden.mean((2, 3))
            hidden = layer(pad(hidden) if name.startswith("Conv") else hidden)
            if name.startswith(("Normalize", "Dense")):
                hidden = F.relu(hidden)
        return hidden


def loss_function(workload: Workload) -> Callable:
    return F.mse_loss if workload.regression else F.cross_entropy


def torch_name(name: str) -> str:
    layer, leaf = name.split("/")
    return f"{layer}.{'bias' if leaf == 'bias' else 'weight'}"


def from_jax(params: dict[str, np.ndarray]) -> Tensors:
    """Parameters by PyTorch's names, in its layouts."""
    orders = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
    return {
        torch_name(name): torch.tensor(
            np.ascontiguousarray(leaf.transpose(orders[leaf.ndim])),
            device=DEVICE,
            requires_grad=True,
        )
        for name, leaf in params.items()
    }


def to_jax(params: dict[str, np.ndarray], tensors: Tensors) -> dict[str, np.ndarray]:
    """Values of `tensors` under the names and in the layouts of `params`."""
    orders = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
    return {
        name: tensors[torch_name(name)].cpu().numpy().transpose(orders[leaf.ndim])
        for name, leaf in params.items()
    }


def loop(
    workload: Workload,
    params: dict[str, np.ndarray],
    tasks: Tasks,
    tensors: Tensors,
    step: Callable[[list[torch.Tensor]], torch.Tensor],
) -> Implementation:
    """Outer steps one after another.

    Args:
      workload: what is trained.
      params: the initial parameters.
      tasks: the tasks to use in turn.
      tensors: the parameters that `step` updates, by PyTorch's names.
      step: one outer step on tasks `[tasks, ...]`; leaves the gradient in `.grad` and
        returns the loss.
    """

    def ready(array: np.ndarray) -> torch.Tensor:
        if array.dtype == np.int32:
            array = array.astype(np.int64)
        if array.ndim == 6:  # Images.
            array = np.ascontiguousarray(np.moveaxis(array, -1, 3))
        return torch.tensor(array, device=DEVICE)

    batches = [ready(array) for array in tasks]

    def run(num_steps: int) -> float:
        for i in range(num_steps):
            loss = step([array[i % NUM_BATCHES] for array in batches])
        return float(loss)

    on_gpu = DEVICE.type == "cuda"
    return Implementation(
        run,
        lambda: to_jax(params, {name: leaf.grad for name, leaf in tensors.items()}),
        "gpu" if on_gpu else "cpu",
        torch.cuda.get_device_name() if on_gpu else "cpu",
        lambda: torch.cuda.max_memory_allocated() if on_gpu else None,
    )
