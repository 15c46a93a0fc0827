"""The runner, from its flags to its files, and what it says to bad input."""

import contextlib
import errno
import fcntl
from functools import cache, partial
import hashlib
import inspect
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import compare
from experiments.few_shot import choosing, door
from experiments.few_shot.flags import FLAGS
from experiments.running import (
    engine,
    loop,
    measuring,
    preparing,
    workdirs,
)
import metajax as mj
from metajax import checkpoints, logs, trees

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "experiments" / "presets").glob("*.flags"))
SHORT = [
    "--num_steps=4",
    "--log_every_steps=1",
    "--eval_every_steps=2",
    "--num_tasks=2",
    "--tasks_per_chunk=1",
    "--num_validation_tasks=3",
    "--num_test_tasks=3",
    "--eval_inner_steps=0,1",  # Fewer take less time to compile.
    "--select_inner_steps=1",
    "--platform=cpu",
]
TINY = ["--data=sinusoid", "--shots=5", "--queries=5", "--hidden=4", *SHORT]


PLUS_PLUS = ["--learner=maml_plus_plus", "--inner_steps=2"]
SCHEDULED = [*PLUS_PLUS, "--per_step=rates", "--multi_step_loss=3"]
SCHEDULED += ["--first_order_until=3", "--outer_schedule=cosine"]
LOOKED_AT = (), tuple(SCHEDULED)  # Runs whose pictures a test opens.


# Read or drawn but once, and of invented characters no more than a task needs.
LOADED = {
    name: cache(getattr(mj.data, name))
    for name in ("omniglot", "mnist", "cifar_fs", "clinc150")
}
LOADED["glyphs"] = cache(partial(mj.data.glyphs, num_classes=20))


def stand_in(takes, *_):
    """An encoder without weights, of few features."""
    return mj.encoders.from_encoder(
        lambda raw: np.ones((len(raw), 8)), name=takes, takes=takes, batch_size=1000
    )


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch):
    for name, load in LOADED.items():
        monkeypatch.setattr(mj.data, name, load)
    for name, takes in (("minilm", "texts"), ("efficientnet_lite0", "images")):
        monkeypatch.setattr(mj.encoders, name, partial(stand_in, takes))


def best(workdir):
    """The parameters that a run has chosen."""
    with np.load(workdir / "best.npz") as file:
        return {name: file[name] for name in file if not name.endswith(".json")}


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


def test_a_run_leaves_everything_in_its_directory(finished):
    workdir = finished()
    result = json.loads((workdir / "result.json").read_text())
    assert [row["inner_steps"] for row in result["rows"]] == [0, 1]
    assert (result["steps"], result["num_tasks"], result["seed"]) == (4, 3, 0)
    assert result["best_step"] in (2, 4)
    values = np.load(workdir / "result.npz")
    np.testing.assert_allclose(
        values["loss_1"].mean(), result["rows"][1]["loss"]["mean"], rtol=1e-6
    )
    lines = logs.read_metrics(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [("validation/loss" in line) for line in lines] == [False, True] * 2
    record = json.loads((workdir / "starts.jsonl").read_text())
    assert record["versions"]["jax"] and "cpu device" in record["device"]
    assert "--hidden=4" in (workdir / "run.flags").read_text().splitlines()
    assert list(workdir.glob("events.out.tfevents*"))
    for picture in ("tasks", "curves", "result", "predictions"):
        assert (workdir / f"{picture}.png").stat().st_size > 5_000


def test_a_saved_run_is_evaluated_alone_with_its_own_flags(run, finished):
    workdir = finished()
    before = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
    again = ["--eval_only", "--platform=cpu", f"--workdir={workdir}"]
    code, out, _ = run(*again)
    assert code == 0 and out.strip() == (workdir / "result.txt").read_text().strip()
    for changed in ("--num_test_tasks=5", "--inner_rate=0.5"):
        code, out, _ = run(*again, changed)
        assert code == 0
    results = [json.loads(path.read_text()) for path in workdir.glob("eval-*.json")]
    assert {result["num_tasks"] for result in results} == {3, 5}
    assert any("--inner_rate=0.5" in result["changed"] for result in results)
    assert before == {p: p.read_bytes() for p in before}
    code, _, errors = run(*again, "--tasks_per_chunk=4")
    assert code == 1 and "must divide" in errors


def test_a_saved_run_is_evaluated_with_flags_that_only_its_learner_reads(
    run, draws, tmp_path
):
    """Though the default learner would refuse them."""
    draws()
    arguments = ["--data=glyphs", "--learner=protonet", "--model=mlp", "--ways=5"]
    arguments += [flag for flag in SHORT if "inner_steps" not in flag]
    workdir = f"--workdir={tmp_path / 'run'}"
    assert run(*arguments, "--num_steps=0", workdir)[0] == 0
    for picture in ("tasks", "task"):
        assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 5_000
    code, _, errors = run("--eval_only", workdir, "--eval_ways=6")
    assert code == 0, errors
    (result,) = (tmp_path / "run").glob("eval-*.json")
    assert "--eval_ways=6" in json.loads(result.read_text())["changed"]


def test_a_run_from_before_a_flag_is_evaluated_as_the_same(run, finished):
    workdir = finished()
    lines = (workdir / "run.flags").read_text().splitlines()
    assert "--rate_per=parameter" in lines
    older = [line for line in lines if line != "--rate_per=parameter"]
    (workdir / "run.flags").write_text("\n".join(older))
    code, _, errors = run("--eval_only", f"--workdir={workdir}", "--remat=step")
    assert code == 0, errors
    (result,) = workdir.glob("eval-*.json")
    assert json.loads(result.read_text())["changed"] == ["--remat=none", "--remat=step"]


@pytest.mark.parametrize(
    "line",
    [
        "--flagfile=/etc/passwd",
        "--run_with_profiling",
        "--compilation_cache=/tmp/theirs",
        "--workdir=/elsewhere",
        "--of_another_version=3",
        "print('hello')",
    ],
)
def test_what_a_run_has_recorded_is_data_and_nothing_else(run, finished, line):
    workdir = finished()
    with (workdir / "run.flags").open("a") as file:
        file.write(f"{line}\n")
    code, _, errors = run("--eval_only", f"--workdir={workdir}")
    assert code == 1 and repr(line) in errors
    assert "does not record: it was made by commit" in errors


def lines(workdir):
    timing = ("seconds", "tasks_per_second")
    return [
        {name: value for name, value in line.items() if name not in timing}
        for line in logs.read_metrics(workdir / "metrics.jsonl")
    ]


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


def saved(workdir):
    return sorted(int(path.stem) for path in (workdir / "checkpoints").glob("*.npz"))


def test_a_run_that_is_stopped_goes_on_to_the_same_result(
    run, stopped, finished, tmp_path
):
    """Though what it does changes from step to step, wherever it is stopped."""
    flags = ["--outer_schedule=cosine", "--first_order_until=3", "--log_every_steps=2"]
    whole, cut = finished(*flags), tmp_path / "cut"
    arguments = [*TINY, *flags, f"--workdir={cut}"]
    # In the middle of a line, in a validation, and once more.
    code, _, errors = stopped("_advance", signal.SIGTERM, 0, *arguments)
    assert code == 143 and "SIGTERM" in errors and saved(cut) == [1]
    assert stopped("_validate", signal.SIGINT, 2, *arguments)[0] == 130
    assert saved(cut) == [1, 2] and lines(cut) == []
    assert stopped("_advance", signal.SIGTERM, 2, *arguments)[0] == 143
    assert saved(cut) == [2, 3]
    code, _, errors = run(*arguments)
    assert code == 0, errors
    assert lines(cut) == lines(whole)
    assert (cut / "result.txt").read_text() == (whole / "result.txt").read_text()
    chosen, same = best(whole), best(cut)
    for name in chosen:
        np.testing.assert_array_equal(chosen[name], same[name])


def test_no_line_is_written_twice_from_an_older_checkpoint(
    run, stopped, finished, tmp_path, caplog
):
    """That was saved before a line which was written after it."""
    cut = tmp_path / "cut"
    arguments = [*TINY, f"--workdir={cut}"]
    assert stopped("_advance", signal.SIGTERM, 0, *arguments)[0] == 143
    assert stopped("_validate", signal.SIGTERM, 2, *arguments)[0] == 143
    assert saved(cut) == [1, 2] and [line["step"] for line in lines(cut)] == [1]
    (cut / "checkpoints" / "2.npz").write_bytes(b"")
    assert run(*arguments)[0] == 0
    assert "2.npz is damaged" in caplog.text
    assert lines(cut) == lines(finished())


def test_intervals_of_log_and_checkpoints_change_no_parameter(finished):
    one, other = (
        finished(*flags)
        for flags in (
            ("--eval_every_steps=4",),
            ("--eval_every_steps=4", "--log_every_steps=3"),
        )
    )
    assert [line["step"] for line in lines(other)] == [3, 4]
    mean = np.mean([line["train/loss"] for line in lines(one)[:3]])
    assert lines(other)[0]["train/loss"] == mean
    assert (one / "best.npz").read_bytes() == (other / "best.npz").read_bytes()


def test_a_directory_in_use_is_not_written_to(run, begun, tmp_path, caplog):
    workdir = tmp_path / "run"
    begun(*TINY, f"--workdir={workdir}")
    (workdir / "lock").write_text("process 1234 on some-host\n")
    before = {path: path.read_bytes() for path in workdir.iterdir()}
    with (workdir / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, errors = run(*TINY, f"--workdir={workdir}")
    assert code == 2 and f"{workdir} is in use by process 1234 on some-host" in errors
    assert before == {path: path.read_bytes() for path in workdir.iterdir()}
    # The lock of a process that was killed holds nobody up.
    with caplog.at_level("INFO"):
        assert run(*TINY, f"--workdir={workdir}")[0] == 0
    assert "left by process 1234 on some-host" in caplog.text


def test_of_two_starts_in_a_new_directory_the_first_to_claim_it_has_it(tmp_path):
    workdir = tmp_path / "run"

    settings = workdirs.Settings({"seed": "--seed=0"})
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        held = [first, second]
        locked = [workdirs.check(settings, workdir, each) for each in held]
        workdirs.claim(settings, workdir, first, locked[0])
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
            workdirs.claim(settings, workdir, second, locked[1])
    with contextlib.ExitStack() as late:
        with pytest.raises(ValueError, match="another run has begun"):
            workdirs.claim(settings, workdir, late, False)


def test_fewer_steps_than_were_taken_end_with_a_validation(run, stopped, tmp_path):
    arguments = [*TINY, "--eval_every_steps=4", f"--workdir={tmp_path / 'run'}"]
    assert stopped("_advance", signal.SIGTERM, 2, *arguments)[0] == 143
    assert run(*arguments, "--num_steps=2")[0] == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["best_step"]) == (3, 3)


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    run, finished, tmp_path, monkeypatch
):
    arguments = (*TINY, f"--workdir={tmp_path / 'run'}")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write_array", full)
        code, _, errors = run(*arguments)
    assert code == engine.UNWRITABLE and "No space left" in errors
    assert "--keep_checkpoints" in errors and len(errors.splitlines()) == 1
    assert run(*arguments)[0] == 0
    assert lines(tmp_path / "run") == lines(finished())


def test_a_checkpoint_of_other_settings_is_refused(run, begun, finished, tmp_path):
    whole, other = finished(), tmp_path / "other"
    begun(*TINY, "--inner_rate=0.5", f"--workdir={other}")
    shutil.copytree(whole / "checkpoints", other / "checkpoints")
    code, _, errors = run(*TINY, "--inner_rate=0.5", f"--workdir={other}")
    assert code == 2
    assert "inner_rate was 0.01, is 0.5" in errors


def prepared():
    """What the flags name, on its devices."""
    from experiments.door import options

    return preparing.prepare(door.experiment(), options(FLAGS))


def trained():
    """Losses of three outer steps, and meta-parameters before and after by path."""
    experiment, progress = prepared()
    before = jax.tree.map(np.asarray, progress.state.meta)
    state, metrics = preparing.advance(experiment, progress.state, 3, at_most=3)
    leaves = zip(jax.tree.leaves(before), jax.tree.leaves(state.meta))
    return np.asarray(metrics["loss"]), dict(zip(trees.leaf_paths(before), leaves))


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


BAD_FLAGS = {
    "misspelled flag": (["--inner_ratee=1"], "inner_rate"),
    "NaN rate": (["--inner_rate=nan"], "--inner_rate=nan: must be positive and finite"),
    "negative rate": (["--outer_rate=-1"], "must be positive and finite"),
    "unknown data": (["--data=imagenet"], "sinusoid|glyphs|omniglot|mnist"),
    "unknown model": (["--model=vit"], "mlp|conv4"),
    "unknown learner": (["--learner=reptil"], "maml|fomaml"),
    "chunk": (["--num_tasks=10", "--tasks_per_chunk=4"], "must divide --num_tasks"),
    "no tasks": (["--num_tasks=0"], "positive"),
    "seeds divided": (["--num_seeds=2", "--divide_state"], "is for a single seed"),
    "no seeds": (["--num_seeds=0"], "positive"),
    "seeds everywhere": (["--num_seeds=2", "--distributed"], "is for one process"),
    "unsorted steps": (["--eval_inner_steps=5,1"], "ascending"),
    "own data unnamed": (["--data=folder"], "--data_path must be set"),
    "two parts": (["--class_split=0.5,0.5"], "three parts"),
    "one rotation": (["--rotations=0:90"], "three ranges"),
    "no length": (["--outer_clip=0"], "must be positive and finite"),
    "NaN scale": (["--init_std=nan"], "positive and finite"),
    "no width": (["--hidden=0"], "positive integers"),
    "an adjoint for none": (
        ["--learner=fomaml", "--last=0"],
        "--last is for --adjoint=unroll, mixed_mode, and --adjoint for --learner=maml",
    ),
    "an unread flag": (["--damping=1"], "--damping is for --adjoint=implicit"),
    "an unread width": (["--width=8"], "--width is for --model=conv4, text_cnn"),
    "unread images": (
        ["--rotated_classes"],
        "--rotated_classes is for --data=omniglot",
    ),
    "another derivative": (
        ["--estimator=evolution", "--adjoint=mixed_mode"],
        "--adjoint is for --estimator=backprop",
    ),
    "unread rates": (["--rate_per=leaf"], "--rate_per is for --learner=meta_sgd"),
    "unread context": (["--num_context=2"], "--num_context is for --learner=cavia"),
    "order of none": (
        ["--learner=imaml", "--first_order_until=5"],
        "--first_order_until is for",
    ),
    "no context": (
        ["--learner=cavia", "--model=residual_mlp"],
        "--learner=cavia needs a model that takes a context: --model=mlp, conv4",
    ),
    "all of the context": (["--learner=cavia", "--adapted=head/*"], "--adapted is for"),
    "displaced warp": (
        ["--learner=warpgrad", "--warp", "--estimator=displacement"],
        "needs inner steps that move what is meta-learned",
    ),
    "more than all steps": (["--last=3", "--inner_steps=2"], "at most --inner_steps"),
    "rest of no use": (["--adjoint=implicit"], "does not depend on the initialisation"),
    "steps alike": (["--per_step=rates"], "--per_step is for --learner=meta_sgd, maml"),
    "unknown step": (
        ["--learner=meta_sgd", "--per_step=normalization"],
        "--per_step lists rates",
    ),
    "means of sinusoids": (["--learner=protonet"], "is no classification"),
    "steps of none": (
        ["--learner=protonet", "--data=glyphs", "--inner_steps=3"],
        "--inner_steps is for --learner=maml, fomaml",
    ),
    "displaced means": (
        ["--learner=protonet", "--data=glyphs", "--estimator=displacement"],
        "needs inner steps",
    ),
    "other ways": (
        ["--data=glyphs", "--ways=5", "--eval_ways=3"],
        "--eval_ways other than --ways is for --learner=protonet",
    ),
    "some classes": (["--learner=baseline", "--data=glyphs"], "trains on all"),
    "no warp": (["--learner=warpgrad"], "--learner=warpgrad needs --warp"),
    "no proximal term": (
        ["--learner=imaml", "--regularization=0"],
        "must be positive and finite",
    ),
    "state by Adam": (
        ["--learner=reptile", "--keep_inner_state"],
        "--keep_inner_state needs --estimator=displacement and --outer_optimizer=sgd",
    ),
    "negative damping": (["--learner=imaml", "--damping=-1"], "at least 0 and finite"),
    "rates in disorder": (
        ["--learner=meta_sgd", "--initial_rates=0.1,0.01"],
        "the least first",
    ),
    "no iterations": (
        ["--learner=imaml", "--solver_iterations=0"],
        "--solver_iterations must be at least",
    ),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_are_refused_when_parsed(run, name, tmp_path):
    arguments, message = BAD_FLAGS[name]
    code, _, errors = run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert code == 1 and message in errors, errors
    assert not (tmp_path / "run").exists()


BAD_CONFIGURATIONS = {
    "too many ways": (
        ["--data=glyphs", "--ways=2000"],
        "The train classes: 2000-way tasks need 2000",
    ),
    "too many shots": (
        ["--data=glyphs", "--shots=15", "--queries=10"],
        "class 'train-",
    ),
    "no data": (["--data=mnist", "--data_dir=/nowhere"], "/nowhere"),
    "no own data": (["--data=folder", "--data_path=/nowhere"], "no class folders"),
    "unknown optimizer": (["--inner_optimizer=sdg"], "'sdg'. Did you mean sgd?"),
    "uphill": (["--outer_optimizer=scale"], "Unknown optimizer 'scale'"),
    "a rate that is none": (
        ["--outer_optimizer=scale_by_adam"],
        "Unknown optimizer 'scale_by_adam'",
    ),
    "a search of the line": (["--outer_optimizer=lbfgs"], "Unknown optimizer 'lbfgs'"),
    "no optimizer of one's own": (
        ["--outer_optimizer=no.such:thing"],
        "Optimizer no.such:thing is not there",
    ),
    "no transformation": (
        [
            "--outer_optimizer=optax:cosine_decay_schedule",
            "--outer_options=decay_steps=9",
        ],
        "its factory must return an optax transformation, not function",
    ),
    "images wanted": (["--model=conv4", "--hidden=40,40"], "conv4 needs images"),
    "unknown option": (["--inner_options=momentun=0.9"], "momentun"),
    "NaN meta-gradient": (["--inner_optimizer=adam"], "eps_root"),
    "no GPU": (["--platform=gpu"], "--platform=gpu was asked for"),
    "too many devices": (["--num_devices=1000"], "choose one of 1"),
    "a divided state": (["--divide_state", "--num_devices=1"], "takes one: see --num"),
    "seeds undivided": (
        ["--num_seeds=6", "--num_devices=4"],
        "does not do for --num_seeds=6: choose one of 1, 2, 3, 6.",
    ),
    "no run to evaluate": (["--eval_only"], "holds no run to evaluate"),
    "nothing adapted": (["--adapted=Conv_*"], "Nothing matches 'Conv_*': there are"),
    "half adapted": (["--adapted=head/*,haed"], "Nothing matches 'haed': there are"),
    "nothing frozen": (["--frozen=body"], "Nothing matches 'body': there are Dense_0"),
    "no parameters": (["--initial_params=/nowhere.npz"], "/nowhere.npz is not there"),
    "no displacement": (
        ["--learner=meta_sgd", "--estimator=displacement"],
        "displacement needs a learner",
    ),
    "nothing to normalise": (
        ["--learner=maml_plus_plus", "--per_step=normalization"],
        "Nothing matches 'Normalize_*'",
    ),
}


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_bad_configurations_are_one_line_and_write_nothing(run, name, tmp_path):
    arguments, message = BAD_CONFIGURATIONS[name]
    code, _, errors = run(*TINY, *arguments, f"--workdir={tmp_path / 'run'}")
    assert code == engine.BAD_CONFIGURATION
    assert errors.startswith("Error: ") and message in errors, errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qpax", None)
    flags = ["--data=glyphs", "--model=conv4", "--width=4", "--learner=metaoptnet"]
    short = [flag for flag in SHORT if "inner_steps" not in flag]
    workdir = tmp_path / "run"
    code, _, errors = run(*flags, *short, "--convex_head=svm", f"--workdir={workdir}")
    assert code == engine.BAD_CONFIGURATION
    assert errors.startswith("Error: ") and "pip install 'metajax[svm]'" in errors
    assert not workdir.exists()


def test_a_directory_of_another_run_is_not_written_over(run, finished, tmp_path):
    workdir = finished()
    before = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
    code, _, errors = run(*TINY, f"--workdir={workdir}")
    assert code == 2 and "holds a finished run" in errors
    (workdir / "result.json").unlink()
    code, _, errors = run(*TINY, "--seed=1", f"--workdir={workdir}")
    assert code == 2 and "--seed=0 --seed=1" in errors
    after = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
    assert {p: before[p] for p in after} == after
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    code, _, errors = run(*TINY, f"--workdir={tmp_path / 'mine'}")
    assert code == 2 and "not empty" in errors


def test_a_run_is_the_same_on_any_number_of_devices(with_flags):
    flags = [*TINY, "--num_tasks=4", "--workdir=unused"]
    one, *others = (
        with_flags(trained, *flags, f"--num_devices={number}")[0]
        for number in (1, 2, 4)
    )
    for losses in others:
        assert losses == pytest.approx(one, rel=1e-4)


def test_seeds_of_one_program_leave_what_their_own_runs_would(run, finished, tmp_path):
    workdir = tmp_path / "seeds"
    arguments = [*TINY, "--num_seeds=2", f"--workdir={workdir}"]
    code, out, errors = run(*arguments)
    assert code == 0, errors
    assert "2 seeds, 0 to 1: loss over tasks, by seed" in out
    means = []
    for seed in range(2):
        alone = finished(f"--seed={seed}", "--num_devices=1")
        own = workdir / f"seed_{seed}"
        for line, expected in zip(lines(own), lines(alone), strict=True):
            assert line == pytest.approx(expected, rel=1e-4)
        chosen, expected = best(own), best(alone)
        for name in expected:
            np.testing.assert_allclose(chosen[name], expected[name], rtol=1e-4)
        found, expected = (
            json.loads((directory / "result.json").read_text())
            for directory in (own, alone)
        )
        for name in ("seed", "steps", "best_step", "num_tasks", "tasks_hash"):
            assert found[name] == expected[name]
        assert list(own.glob("events.out.tfevents*"))
        means.append([row["loss"]["mean"] for row in found["rows"]])
        expected = [row["loss"]["mean"] for row in expected["rows"]]
        assert means[-1] == pytest.approx(expected, rel=1e-4)
    result = json.loads((workdir / "result.json").read_text())
    assert result["seeds"] == [0, 1]
    for row, values in zip(result["rows"], np.transpose(means), strict=True):
        expected = [values.mean(), values.std(ddof=1), values.min(), values.max()]
        assert list(row["loss"].values()) == pytest.approx(expected)
    code, out, errors = run(
        "--eval_only", "--platform=cpu", f"--workdir={workdir}", "--num_test_tasks=2"
    )
    assert code == 0 and "2 seeds" in out, errors
    code, _, errors = run("--eval_only", f"--workdir={workdir}", "--seed=1")
    assert code == 2 and "a run of other seeds: --seed=0 --seed=1." in errors
    (name,) = {path.name for path in workdir.glob("*/eval-*.json")}
    assert json.loads((workdir / name).read_text())["num_tasks"] == 2


def test_seeds_of_one_program_go_on_together(run, stopped, finished, tmp_path):
    flags = ["--num_seeds=2", "--num_devices=1"]
    whole, cut = finished(*flags), tmp_path / "cut"
    arguments = [*TINY, *flags, f"--workdir={cut}"]
    assert stopped("_advance", signal.SIGTERM, 0, *arguments)[0] == 143
    code, _, errors = run(*arguments)
    assert code == 0, errors
    for seed in ("seed_0", "seed_1"):
        assert lines(cut / seed) == lines(whole / seed)
        for file in ("best.npz", "result.txt"):
            assert (cut / seed / file).read_bytes() == (
                whole / seed / file
            ).read_bytes()


def test_a_seed_that_fails_is_named_and_all_stay_at_their_checkpoint(
    run, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    arguments = [*TINY, "--num_seeds=3", "--max_skipped=0", f"--workdir={workdir}"]
    advance = preparing.advance

    def spoiled(experiment, state, *rest):
        bias = state.meta["Dense_0"]["bias"]
        if int(state.step[0]) == 2:
            state.meta["Dense_0"]["bias"] = bias.at[1].set(np.nan)
        return advance(experiment, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "advance", spoiled)
        code, _, errors = run(*arguments)
    assert code == engine.NON_FINITE
    assert "step 2 has meta-loss nan" in errors and "--seed=1, and what" in errors
    assert saved(workdir) == [2]
    assert run(*arguments)[0] == 0


def test_shares_of_seeds_are_percentages():
    rows = [[{"steps": 0, "accuracy": {"mean": mean}}] for mean in (0.25, 0.75)]
    summaries = [
        {"seed": 3 + i, "axis": "steps", "rows": row} for i, row in enumerate(rows)
    ]
    metric = measuring.Metric("accuracy", is_share=True)
    _, text = measuring.over_seeds(summaries, metric)
    last = text.splitlines()[-1]
    assert last.split() == ["0", "50.00%", "35.36%", "25.00%", "75.00%"]


def test_a_directory_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, errors = run(*TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert code == engine.BAD_CONFIGURATION and str(tmp_path / "file") in errors


@pytest.mark.parametrize("eval_every_steps", [1, 4])
def test_training_that_becomes_non_finite_stops_at_the_step(
    run, tmp_path, eval_every_steps
):
    workdir = tmp_path / "run"
    arguments = [
        *TINY,
        "--outer_optimizer=sgd",
        "--outer_rate=1e15",
        "--max_skipped=0",
        f"--eval_every_steps={eval_every_steps}",
        f"--workdir={workdir}",
    ]
    code, _, errors = run(*arguments)
    assert code == engine.NON_FINITE and "--outer_rate" in errors
    step = int(errors.split("step ")[1].split()[0])
    assert 0 < step < 4 and f"for step {step} of --seed=0" in errors
    assert not (workdir / "result.json").exists()
    assert (workdir / "checkpoints" / f"{step}.npz").exists()
    # Started again, it stops at the same step, with the same last good state.
    assert run(*arguments)[2] == errors


def test_own_vectors_train_without_a_picture(run, draws, tmp_path):
    draws()
    inputs = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", inputs=inputs, labels=np.arange(60) % 15)
    arguments = ["--data=arrays", f"--data_path={tmp_path / 'mine.npz'}", "--ways=3"]
    arguments += ["--shots=1", "--queries=1", f"--workdir={tmp_path / 'run'}"]
    code, out, errors = run(*TINY, *arguments)
    assert code == 0 and "accuracy" in out, errors
    drawn = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert drawn == {"curves.png", "result.png", "task.png"}


def test_other_data_under_the_same_path_is_not_gone_on_with(run, stopped, tmp_path):
    path, labels = tmp_path / "mine.npz", np.arange(60) % 15

    def write(seed):
        inputs = np.random.default_rng(seed).normal(size=(60, 7)).astype(np.float32)
        np.savez(path, inputs=inputs, labels=labels)

    arguments = [*TINY, "--data=arrays", f"--data_path={path}", "--ways=3"]
    arguments += ["--shots=1", "--queries=1", f"--workdir={tmp_path / 'run'}"]
    write(seed=0)
    assert stopped("_advance", signal.SIGTERM, 2, *arguments)[0] == 143
    write(seed=1)
    code, _, errors = run(*arguments)
    assert code == engine.BAD_CONFIGURATION and errors.count("\n") == 1
    assert "digest of the training data was" in errors
    write(seed=0)
    assert run(*arguments)[0] == 0


def test_class_files_that_overlap_are_refused(run, tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=np.zeros((40, 3)), labels=np.arange(40) % 8)
    for name, classes in (("train", "0123"), ("validation", "345"), ("test", "67")):
        (tmp_path / f"{name}.txt").write_text("\n".join(classes))
    files = ",".join(
        str(tmp_path / f"{n}.txt") for n in ("train", "validation", "test")
    )
    arguments = ["--data=arrays", f"--data_path={tmp_path / 'mine.npz'}", "--ways=2"]
    code, _, errors = run(
        *TINY, *arguments, f"--class_split={files}", "--workdir=unused"
    )
    assert code == 2 and "Class '3' is in both" in errors


def test_a_log_line_that_was_cut_off_is_dropped(finished):
    workdir = finished()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')
    assert len(logs.read_metrics(workdir / "metrics.jsonl")) == 4


def test_the_command_line_helps_quickly_and_refuses_stray_arguments():
    def command(*arguments):
        return subprocess.run(
            [
                sys.executable,
                "-X",
                "importtime",
                "-m",
                "experiments.few_shot",
                *arguments,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    usage = command("--help")
    assert "--inner_rate" in usage.stdout
    assert "jax" not in usage.stderr and "numpy" not in usage.stderr
    stray = command("--workdir=unused", "train")
    assert (
        stray.returncode
        and "Unexpected argument 'train'" in stray.stdout + stray.stderr
    )
    unnamed = command()
    assert "workdir" in unnamed.stderr and "Traceback" not in unnamed.stderr


def test_two_runs_are_compared_task_by_task(run, finished, tmp_path, capsys):
    first, second = finished(), tmp_path / "second"
    code, out, _ = run(*TINY, "--seed=1", f"--workdir={second}")
    assert code == 0 and out.startswith((second / "result.txt").read_text())
    assert compare.compare(first, second) == 0
    out = capsys.readouterr().out
    results = [dict(np.load(path / "result.npz")) for path in (first, second)]
    a, b = (result["loss_1"].mean() for result in results)
    line = next(line for line in out.splitlines() if "loss_1" in line)
    np.testing.assert_allclose(float(line.split()[1]), a - b, atol=1e-3)
    np.savez(second / "result.npz", **results[1] | {"tasks_hash": "another"})
    assert compare.compare(first, second) == 2
    assert "same tasks" in capsys.readouterr().err
    assert compare.compare(first, tmp_path / "absent") == 2


def test_runs_of_several_seeds_are_compared_seed_by_seed(tmp_path, capsys):
    random, gaps = np.random.default_rng(0), []
    for seed in (0, 2, 10):
        values = [random.normal(size=7) for _ in "ab"]
        gaps.append((values[0] - values[1]).mean())
        for name, value in zip("ab", values):
            (tmp_path / name / f"seed_{seed}").mkdir(parents=True)
            saved = {"loss_1": value, "tasks_hash": "one"}
            np.savez(tmp_path / name / f"seed_{seed}" / "result.npz", **saved)
    a, b = tmp_path / "a", tmp_path / "b"
    assert compare.compare(a, b) == 0
    out = capsys.readouterr().out
    assert "3 seeds of 7 tasks" in out
    mean, interval = mj.mean_and_interval(np.array(gaps))
    assert f"{mean:+9.4f} +- {interval:.4f}" in out
    assert compare.compare(a, b / "seed_2") == 2
    assert "has 3 seeds and the other 1" in capsys.readouterr().err


def test_parameters_of_one_run_start_another_and_the_frozen_stay(
    run, finished, tmp_path
):
    first, second = finished(), tmp_path / "second"
    start = [f"--initial_params={first / 'best.npz'}", "--learner=anil"]
    frozen = ["--frozen=Dense_*", f"--workdir={second}"]
    assert run(*TINY, *start, *frozen)[0] == 0
    before, after = best(first), best(second)
    assert (
        set(before)
        == set(after)
        == {
            f"{layer}/{name}"
            for layer in ("Dense_0", "head")
            for name in ("bias", "kernel")
        }
    )
    for name in before:
        same = np.array_equal(before[name], after[name])
        assert same == name.startswith("Dense_"), name
    other = ["--init_std=0.1", "--hidden=5", f"--workdir={tmp_path / 'third'}"]
    code, _, errors = run(*TINY, *start, *other)
    assert code == engine.BAD_CONFIGURATION
    assert "belongs to hidden=['4'], but here it is ['5']" in errors
    (first / "best.npz").unlink()  # Its own checkpoint is enough from now on.
    assert run("--eval_only", "--platform=cpu", f"--workdir={second}")[0] == 0


def test_learned_rates_are_logged_and_drawn(finished):
    workdir = finished(*SCHEDULED)
    lines = logs.read_metrics(workdir / "metrics.jsonl")
    rates = [line["rates/head/kernel/1"] for line in lines if "validation/loss" in line]
    assert len(rates) == 2 and rates[0] != rates[1]
    assert (workdir / "rates.png").stat().st_size > 5_000


def test_implicit_runs_report_and_warn_of_their_residuals(run, tmp_path, caplog):
    flags = ["--learner=imaml", "--inner_rate=1e-4"]
    assert run(*TINY, *flags, f"--workdir={tmp_path / 'run'}")[0] == 0
    line = logs.read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert 0.9 < line["train/inner_gradient"] < 1 and line["train/solver_residual"] >= 0
    assert "of the gradient is left after it" in caplog.text


def test_a_solver_that_diverges_stops_the_run_with_advice(run, tmp_path):
    flags = ["--learner=imaml", "--solver=neumann", "--inner_rate=10"]
    flags += ["--solver_iterations=20", "--inner_steps=0", "--max_skipped=0"]
    code, _, errors = run(*TINY, *flags, f"--workdir={tmp_path / 'run'}")
    assert code == engine.NON_FINITE and "--solver=gmres" in errors


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


def test_what_would_change_the_result_cannot_be_changed_half_way(run, begun, tmp_path):
    schedule = ["--outer_schedule=linear", f"--workdir={tmp_path / 'run'}"]
    begun(*TINY, *schedule)
    code, _, errors = run(*TINY, *schedule, "--num_steps=8")
    assert code == 2 and "--num_steps=4 --num_steps=8" in errors
    imaml = ["--learner=imaml", f"--workdir={tmp_path / 'other'}"]
    begun(*TINY, "--adjoint=implicit", *imaml)
    code, _, errors = run(*TINY, "--adjoint=unroll", *imaml)
    assert code == 2 and "--adjoint=implicit --adjoint=unroll" in errors


def test_steps_of_their_own_are_evaluated_with_more_and_fewer(run, finished):
    again = ["--eval_only", "--platform=cpu", f"--workdir={finished(*SCHEDULED)}"]
    code, out, errors = run(*again, "--eval_inner_steps=0,1,3")
    assert code == 0, errors
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["0", "1", "3"]
