"""What the runner says to bad flags and data: one line, and nothing is written."""

from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from experiments.running import engine
from tests.few_shot.runs import SHORT, TINY

ROOT = Path(__file__).parents[2]

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


def test_a_directory_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, errors = run(*TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert code == engine.BAD_CONFIGURATION and str(tmp_path / "file") in errors


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
