"""PyTorch's files of parameters as they were until 2020, without PyTorch.

Such a file is a row of pickles, the fourth of which has the tensors' shapes, the fifth
the order of their storages, whose values follow. Nothing is unpickled but names, numbers
and tensors.
"""

from collections import OrderedDict
import io
import pickle
from typing import Any, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {"FloatStorage": np.float32, "LongStorage": np.int64}


class _Tensor(NamedTuple):
    storage: tuple  # What kind of storage, its key, where, how many values.
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage, offset, shape, strides, *unused) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """One that makes tensors' descriptions, and refuses whatever else could run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no part of parameters")

    def persistent_load(self, pid: tuple) -> tuple:
        return pid[1:]


def read(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a state dict, by their names.

    Args:
      content: of a file that `torch.save` wrote before version 1.6.

    Returns:
      The arrays.

    Raises:
      ValueError: if it is no such file.
    """
    file = io.BytesIO(content)

    def load():
        return _Unpickler(file).load()

    try:
        if load() != _MAGIC:
            raise ValueError("it does not begin as one")
        # What follows is the protocol, and what machine wrote it.
        _, _, tensors, keys = (load() for _ in range(4))
        kinds = {each.storage[1]: each.storage[0] for each in tensors.values()}
        storages = {}
        for key in keys:
            (size,) = np.frombuffer(file.read(8), "<i8")
            dtype = np.dtype(_TYPES[kinds[key]]).newbyteorder("<")
            storages[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype)
        return {name: _array(each, storages) for name, each in tensors.items()}
    except Exception as error:  # There is no telling what damage makes pickle raise.
        raise ValueError(
            f"This is no file of PyTorch's parameters: {error}."
        ) from error


def _array(tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    values = storages[tensor.storage[1]][tensor.offset :]
    strides = [values.itemsize * stride for stride in tensor.strides]
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides))
    if last >= len(values) or min((0, *tensor.shape, *tensor.strides)) < 0:
        raise ValueError("a tensor goes beyond its storage")
    return np.lib.stride_tricks.as_strided(values, tensor.shape, strides).copy()
