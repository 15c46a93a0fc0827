"""Runs that several files of tests look at, and how a run is cut off."""

from functools import cache, partial
import hashlib
import os
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.running import loop, workdirs
import metajax as mj
from tests.few_shot.runs import SCHEDULED, TINY

LOOKED_AT = (), tuple(SCHEDULED)  # Runs whose pictures a test opens.
# Read or drawn but once, and of invented characters no more than a task needs.
LOADED = {
    name: cache(getattr(mj.data, name))
    for name in ("omniglot", "mnist", "cifar_fs", "clinc150")
}
LOADED["glyphs"] = cache(partial(mj.data.glyphs, num_classes=20))


def stand_in(takes, *_, shape=(8,)):
    """An encoder without weights, of few features."""
    return mj.encoders.from_encoder(
        lambda raw: np.ones((len(raw), *shape)),
        name=f"{takes}-{len(shape)}",
        takes=takes,
        batch_size=1000,
    )


def stand_in_blocks(blocks, outputs, *, rank):
    """A model of tokens with the params of `minilm_blocks`."""

    def init(key, inputs):
        return {"blocks": {"weight": jnp.eye(8)}, "adapter": {"up": jnp.zeros((8, 8))}}

    def apply(params, inputs):
        weight = params["blocks"]["weight"] + params["adapter"]["up"]
        return inputs.mean(axis=1) @ weight

    return mj.Model(init, apply)


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch):
    for name, load in LOADED.items():
        monkeypatch.setattr(mj.data, name, load)
    for name, takes in (("minilm", "texts"), ("efficientnet_lite0", "images")):
        monkeypatch.setattr(mj.encoders, name, partial(stand_in, takes))
    tokens = partial(stand_in, "texts", shape=(3, 8))
    monkeypatch.setattr(mj.encoders, "minilm_tokens", tokens)
    monkeypatch.setattr(mj.encoders, "minilm_blocks", stand_in_blocks)


@pytest.fixture
def finished(run, draws, tmp_path_factory, tmp_path):
    """Copies the directory of a run with these flags, which is made but once."""

    def copy(*flags):
        name = hashlib.blake2b(" ".join(flags).encode(), digest_size=4).hexdigest()
        made = tmp_path_factory.getbasetemp() / f"finished-{name}"
        if not made.exists():
            if flags in LOOKED_AT:
                draws()
            assert run(*TINY, *flags, f"--workdir={made}")[0] == 0
        return shutil.copytree(made, tmp_path / made.name)

    return copy


@pytest.fixture
def stopped(run, monkeypatch):
    """Runs the runner, and sends it a signal when it does something at a step."""

    def stopped(function, number, at_step, *arguments):
        original = getattr(loop, function)

        def signalled(prepared, progress, *rest):
            if np.max(progress.state.step) == at_step:
                os.kill(os.getpid(), number)
            return original(prepared, progress, *rest)

        # Whoever started the tests may have it ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(loop, function, signalled)
                return run(*arguments)
        finally:
            signal.signal(signal.SIGINT, before)

    return stopped


@pytest.fixture
def begun(run, monkeypatch):
    """Runs the runner, but interrupts it once it has claimed its directory."""

    def interrupt(workdir, device):
        raise KeyboardInterrupt

    def begin(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(workdirs, "write_record", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(*arguments)

    return begin
