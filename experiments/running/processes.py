"""One run of several processes: how they meet, who writes, and what all must know.

Every process runs the same programs on its share of the devices. The first alone reads
and writes the run's directory. A process that is left alone ends with `LOST_PEER`, so
that whoever starts processes may start them all again.
"""

from collections.abc import Callable
import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from experiments.running.options import Options
from metajax.base import PyTree

LOST_PEER = 75  # An exit code: EX_TEMPFAIL of sysexits.h.

# In what JAX and the libraries beneath it say.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "heartbeat", "oordination service")
_JOIN_SECONDS, _HEARTBEAT_SECONDS = 120, 30


def join(options: Options) -> None:
    """Makes this process one of several, if the options say so.

    Raises:
      ValueError: if the others cannot be found.
    """
    if (
        not (options.distributed or options.coordinator)
        or jax.distributed.is_initialized()
    ):
        return
    _end_with_the_coordinator()
    # JAX's own way with SIGTERM would take it from the engine's signals.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--distributed finds no other processes ({reason}): it is for Slurm, Open "
            "MPI, Kubernetes and TPU pods; elsewhere set --coordinator, --num_processes "
            "and --process_id."
        ) from error


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _leave_as_lost(number: int) -> None:
    os._exit(LOST_PEER)


def _end_with_the_coordinator() -> None:
    """JAX aborts without the first process, or if it is lost: there is but a signal."""
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _leave_as_lost)


def are_several() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    return not are_several() or jax.process_index() == 0


def leave(code: int) -> int:
    """Returns an exit code; if there are peers, leaves with it, not to wait for them."""
    if code and are_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def is_loss_of_peer(error: BaseException) -> bool:
    """Whether an error is of talking to another process, which has probably ended."""
    return are_several() and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def leave_after(error: BaseException) -> None:
    """If there are peers, leaves at once: one was lost, or this process fails them."""
    if not are_several():
        return
    if is_loss_of_peer(error):
        reason = str(error).partition("\n")[0]
        print(f"Error: another process of the run is lost: {reason}", file=sys.stderr)
        leave(LOST_PEER)
    traceback.print_exception(error)
    leave(1)


def on_first(function: Callable, *arguments) -> Any:
    """Calls a function in the first process alone; if it raises, all do.

    Returns:
      What it returns, and None in all other processes.
    """
    result = error = None
    if is_first():
        try:
            result = function(*arguments)
        except (ValueError, OSError) as raised:
            error = raised
    failed = share(np.int32(error is not None))
    if error:
        raise error
    if failed:
        raise ValueError("the first process of the run has said why it stops.")
    return result


def share(tree: PyTree) -> PyTree:
    """The tree of the first process, on the host; of the same structure in the others."""
    if not are_several():
        return tree

    def numbers(leaf):
        return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)

    def to_bytes(leaf):  # JAX adds up what processes have, which turns -0.0 into 0.0.
        return np.frombuffer(numbers(leaf).tobytes(), np.uint8)

    def like(shared, leaf):
        own = numbers(leaf)
        array = np.frombuffer(shared.tobytes(), own.dtype).reshape(own.shape)
        if _is_key(leaf):
            return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        return array

    tree = local(tree)
    shared = multihost_utils.broadcast_one_to_all(jax.tree.map(to_bytes, tree))
    return jax.tree.map(like, shared, tree)


def share_json(value: Any) -> Any:
    """A value of the first process that JSON can hold."""
    if not are_several():
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(share(np.int32(len(text))))
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = text
    return json.loads(bytes(share(padded)))


def _is_key(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def local(tree: PyTree) -> PyTree:
    """A tree that devices hold or divide, as a whole and of this process alone.

    If devices divide it, all processes must call this.
    """
    if not are_several():
        return tree

    def whole(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        if not leaf.is_fully_replicated:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return leaf.addressable_data(0)

    return jax.tree.map(whole, tree)


def agree(*numbers: float) -> list[float]:
    """The greatest of each of some numbers that processes have."""
    if not are_several():
        return list(numbers)
    gathered = multihost_utils.process_allgather(np.array(numbers, np.float32))
    return np.max(gathered, axis=0).tolist()


def only_first(
    make: Callable, *arguments, **options
) -> contextlib.AbstractContextManager:
    """In the first process the context that `make` gives; else one that does nothing."""
    return make(*arguments, **options) if is_first() else _Nothing()


class _Nothing:
    """Does nothing, by whatever name."""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *error) -> None:
        pass

    def __getattr__(self, name: str) -> Callable:
        return lambda *arguments, **options: None
