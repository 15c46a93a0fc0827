"""The bilevel problem, solved by several adjoints: experiments, table and picture."""

from functools import cache, partial
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from experiments.noisy_labels import judging
from experiments.noisy_labels.problem import (
    Always,
    Data,
    initial,
    load,
    validation_loss,
)
from experiments.running import Experiment, Layout, Measure, Measurement
from experiments.running.pictures import plt, save
import metajax as mj
from metajax import training, trees

# How training is differentiated: names of directories, and in tables.
NAMES = {
    "unroll": "unroll()",
    "nested": 'unroll(remat="nested")',
    "last": "unroll(last={last})",
    "implicit": "implicit(cg({cg_iterations}))",
}


class Study(NamedTuple):
    """What flags describe; they say what each is."""

    seed: int
    train_images: int
    validation_images: int
    noise: float
    data_dir: str | None
    num_inner_steps: int
    inner_rate: float
    l2: float
    num_steps: int
    outer_rate: float
    last: int
    cg_iterations: int
    compared_steps: tuple[int, ...]

    @property
    def adjoints(self) -> dict[str, mj.base.Adjoint]:
        """The ways to differentiate training that are compared."""
        return {
            "unroll": mj.adjoints.unroll(),
            "nested": mj.adjoints.unroll(remat="nested"),
            "last": mj.adjoints.unroll(last=self.last),
            "implicit": mj.adjoints.implicit(mj.adjoints.cg(self.cg_iterations)),
        }


@cache
def problem(study: Study) -> tuple[Data, mj.Batch, mj.Batch]:
    """Noisy data, the training images with their true labels, and the test images."""
    return load(
        study.seed,
        train_images=study.train_images,
        validation_images=study.validation_images,
        noise=study.noise,
        data_dir=study.data_dir,
    )


@cache
def trainer(study: Study):
    """As `judging.trainer`, compiled once."""
    return judging.trainer(study.inner_rate, study.num_inner_steps)


def experiment(study: Study, name: str) -> Experiment:
    """Descends the validation loss by one way to differentiate training.

    Args:
      study: the problem.
      name: of the adjoint.
    """
    data, _, test = problem(study)
    optimizer = optax.adam(study.outer_rate)
    adjoint, steps = study.adjoints[name], study.num_inner_steps
    loss = validation_loss(adjoint, study.inner_rate, steps)

    def objective(key, hyper, data: Data):
        del key
        return loss(hyper, data)[0], {}

    def step(layout: Layout) -> training.TrainStep:
        meta_grad = mj.estimators.backprop(objective, **layout._asdict())
        return mj.train_step(meta_grad, optimizer, max_skipped=0)

    measure = partial(_on_images, trainer(study), data, steps)
    return Experiment(
        init=lambda key: training.begin(key, initial(study.l2), optimizer),
        optimizer=optimizer,
        step=step,
        tasks=Always(data),
        num_tasks=1,
        validation=measure(data.validation),
        test=measure(test),
        advice=lambda last: "a lower --inner_rate or --outer_rate",
    )


def _on_images(train, data: Data, num_steps: int, images: mj.Batch) -> Measure:
    """What training comes to on images, each of which counts as a task does elsewhere."""
    pixels = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(images))
    digest = hashlib.blake2b(pixels, digest_size=8).hexdigest()

    def measure(hyper, report) -> Measurement:
        _, _, losses, right = jax.device_get(train(hyper, data, images))
        report(len(right))
        values = {"loss": losses, "accuracy": right.astype(np.float32)}
        values = {name: column[:, None] for name, column in values.items()}
        return Measurement("inner steps", (num_steps,), values, digest)

    return Measure(measure, len(images.targets))


def read(study: Study, directory: Path) -> dict:
    """What a finished run has found, as its line in the table."""
    data, _, test = problem(study)
    hyper = trees.load(directory / "best.npz", initial(study.l2))
    adjoint = study.adjoints[directory.name.partition("-")[2]]
    log = (directory / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in log]
    return judging.judge(trainer(study), hyper, data, test) | {
        "losses": [line["train/loss"] for line in lines],
        # Other work may share the cores.
        "seconds": 1 / max(line["tasks_per_second"] for line in lines),
        "temporary_bytes": judging.temporary_bytes(
            adjoint, study.inner_rate, study.num_inner_steps, hyper, data
        ),
    }


@cache
def references(study: Study) -> dict[str, dict]:
    """Lines of the table for hyperparameters that are not learned."""
    data, true, test = problem(study)
    judge = partial(judging.judge, trainer(study), initial(study.l2), test=test)
    return {
        "labels as they are": judge(data=data),
        "true labels": judge(data=data._replace(train=true)),
        "validation images alone": judge(data=data._replace(train=data.validation)),
    }


@cache
def derivatives(study: Study) -> list[dict]:
    """How right derivatives are after so many inner steps."""
    return judging.compare(
        problem(study)[0],
        study.compared_steps,
        rate=study.inner_rate,
        l2=study.l2,
        last=study.last,
        iterations=study.cg_iterations,
    )


def _named(study: Study, found: dict[str, dict]) -> dict[str, dict]:
    """What was found by how tables call the adjoints."""
    return {NAMES[k].format(**study._asdict()): fit for k, fit in found.items()}


def table(study: Study, found: dict[str, dict]) -> str:
    """Both tables as text."""
    lines = [
        f"Softmax regression, {10 * study.train_images} training images of MNIST, "
        f"{study.noise:.0%} of the even digits' labels wrong;",
        f"{10 * study.validation_images} clean validation images, "
        f"{study.num_inner_steps} inner and {study.num_steps} outer steps.",
        "",
        f"{'':26s} validation  test accuracy          inner     s per  temporaries",
        f"{'':26s}       loss          (95%)     l2 gradient outer step          MiB",
    ]
    for name, fit in (references(study) | _named(study, found)).items():
        line = (
            f"{name:26s} {fit['validation_loss']:10.3f}   "
            f"{100 * fit['accuracy']:4.1f} +- {100 * fit['interval']:.1f}% "
            f"{fit['l2']:6.4f} {fit['inner_gradient']:8.0e}"
        )
        if "losses" in fit:
            mebibytes = fit["temporary_bytes"] / 2**20
            line += f" {fit['seconds']:10.2f} {mebibytes:12.1f}"
        lines.append(line)
    lines += [
        "",
        "Derivatives at the initial hyperparameters, relative error to that at rest:",
        f"inner steps   unroll()  unroll(last={study.last})  implicit  "
        "implicit to unroll(): error, cosine",
    ]
    for row in derivatives(study):
        lines.append(
            f"{row['inner_steps']:11d} {row['unroll']:10.0e} {row['last']:15.0e} "
            f"{row['implicit']:9.0e} {row['implicit_to_unroll']:28.0e} "
            f"{row['cosine']:8.4f}"
        )
    return "\n".join(lines)


def picture(study: Study, found: dict[str, dict], path: Path) -> None:
    """Validation losses, errors of derivatives, and the weights that were learned."""
    learned, rows = _named(study, found), derivatives(study)
    unrolled, _, last, implicit = learned
    styles = [
        (unrolled, "unroll", {"color": "0.55", "linewidth": 4}),
        (last, "last", {"color": "tab:blue"}),
        (implicit, "implicit", {"color": "tab:orange", "linestyle": "--"}),
    ]
    figure, (losses, errors, weights) = plt.subplots(1, 3, figsize=(12, 3.5))
    steps = [row["inner_steps"] for row in rows]
    for name, key, style in styles:
        losses.plot(learned[name]["losses"], label=name, **style)
        values = [row[key] for row in rows]
        errors.plot(steps, values, marker=".", label=name, **style)
    losses.set(xlabel="outer step", title="validation loss")
    errors.set(xscale="log", yscale="log", xlabel="inner steps")
    errors.set_title("hypergradient: error to that at rest")
    colors = ["tab:blue", "tab:orange"] * 5
    weights.bar(range(10), learned[implicit]["weights"], color=colors)
    weights.axhline(1, color="0.55", linestyle="--")
    weights.set(xlabel="label (the wrong ones are odd)", xticks=range(10))
    weights.set_title(f"weights by {implicit}")
    for axis in (losses, errors):
        axis.legend(fontsize=7)
    save(figure, path)
