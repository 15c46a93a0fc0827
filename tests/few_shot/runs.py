"""What few-shot runs of a moment are asked for, and how their files are read."""

import jax
import numpy as np

from experiments.few_shot import door
from experiments.few_shot.flags import FLAGS
from experiments.running import preparing
from metajax import logs, trees

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


def best(workdir):
    """The parameters that a run has chosen."""
    with np.load(workdir / "best.npz") as file:
        return {name: file[name] for name in file if not name.endswith(".json")}


def lines(workdir):
    """The log, but for what differs from run to run."""
    timing = ("seconds", "tasks_per_second")
    return [
        {name: value for name, value in line.items() if name not in timing}
        for line in logs.read_metrics(workdir / "metrics.jsonl")
    ]


def saved(workdir):
    """The steps of which there are checkpoints."""
    return sorted(int(path.stem) for path in (workdir / "checkpoints").glob("*.npz"))


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
