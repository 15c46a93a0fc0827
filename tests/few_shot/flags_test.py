"""Every preset is a program, and every flag changes what is learned."""

import inspect
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.few_shot import choosing
from experiments.running import preparing
import metajax as mj
from tests.few_shot.runs import PLUS_PLUS, SHORT, TINY, prepared, trained

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "experiments" / "presets").glob("*.flags"))


def zero_state(key, *components, init_state=mj.init_state):
    """A state like the one that training starts from, for which nothing is compiled."""
    shapes = jax.eval_shape(lambda key: init_state(key, *components), key)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes._replace(key=()))
    return zeros._replace(key=key)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_lowers_for_accelerators(
    with_flags, preset, tmp_path, request, monkeypatch
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(mj, "init_state", zero_state)
    needs_data = preset.stem.startswith(("omniglot", "mnist", "cifar_fs", "clinc150"))
    data_dir = request.getfixturevalue("data_dir") if needs_data else tmp_path
    short = [flag for flag in SHORT if "inner_steps" not in flag]  # Some take none.
    flags = [f"--flagfile={preset}", *short, f"--data_dir={data_dir}", "--num_steps=1"]

    def trace():
        experiment, progress = prepared()
        return preparing.trace(experiment, progress.state, at_most=1)

    traced = with_flags(trace, *flags, "--workdir=unused")
    state, metrics = traced.out_info
    assert state.step.shape == () and metrics["loss"].shape == (1,)
    assert "stablehlo" in traced.lower(lowering_platforms=("tpu", "cuda")).as_text()


def test_factories_take_the_flags_that_their_parts_declare():
    for parts in choosing.CHOICES.values():
        for name, part in parts.items():
            own = inspect.signature(part.make).parameters.values()
            own = {
                parameter.name
                for parameter in own
                if parameter.kind is parameter.KEYWORD_ONLY
                and parameter.default is parameter.empty
            }
            assert own == {holder.name for holder in part.reads}, name


ALONE = [*TINY, "--num_devices=1", "--tasks_per_chunk=2", "--workdir=unused"]
IMAML = ["--learner=imaml", "--solver=dense"]
REPTILE = ["--learner=reptile", "--outer_optimizer=sgd", "--inner_optimizer=adam"]
UNCHANGED = {}  # What was trained without the change, by its flags.
CHANGES = {
    "evolution": ([], ["--estimator=evolution"]),
    "displacement": (["--learner=reptile"], ["--estimator=backprop"]),
    "minibatches": (["--learner=reptile"], ["--inner_batch=2"]),
    "state": ([*REPTILE, "--inner_steps=2"], ["--keep_inner_state"]),
    "clip": (["--outer_optimizer=sgd"], ["--outer_clip=1e-3"]),
    "own": (["--outer_optimizer=sgd"], ["--outer_optimizer=optax:sign_sgd"]),
    "schedule": ([], ["--outer_schedule=linear"]),
    "first order": (["--inner_steps=2"], ["--first_order_until=2"]),
    "truncation": (["--inner_steps=2"], ["--last=1"]),
    "part": ([], ["--adapted=head/*"]),
    "multi-step": (PLUS_PLUS, ["--multi_step_loss=4"]),
    "rates": (PLUS_PLUS, ["--per_step=rates"]),
    "rate per leaf": (["--learner=meta_sgd"], ["--rate_per=leaf"]),
    "adjoint": (["--learner=cavia"], ["--adjoint=implicit", "--damping=1"]),
    "damping": (IMAML, ["--damping=1"]),
    "regularization": (IMAML, ["--regularization=1"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_flag_changes_what_is_learned(with_flags, name):
    flags, change = CHANGES[name]
    _, after = with_flags(trained, *ALONE, *flags, *change)
    if tuple(flags) not in UNCHANGED:
        UNCHANGED[tuple(flags)] = with_flags(trained, *ALONE, *flags)[1]
    before, after = (
        # Params of a model may have something else beside them.
        {path.removeprefix("params/"): pair for path, pair in leaves.items()}
        for leaves in (UNCHANGED[tuple(flags)], after)
    )
    shared = before.keys() & after.keys()
    assert not all(np.array_equal(before[n][1], after[n][1]) for n in shared)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--learner=reptile", "--outer_optimizer=sgd", "--outer_rate=1"],
        ["--outer_optimizer=adamw", "--outer_options=weight_decay=0.9"],
        ["--estimator=evolution"],
    ],
)
def test_the_frozen_stay_whatever_moves_the_others(with_flags, flags):
    _, leaves = with_flags(trained, *ALONE, *flags, "--frozen=Dense_*")
    for name, (before, after) in leaves.items():
        assert np.array_equal(before, after) == name.startswith("Dense_"), name
