"""The door of few-shot runs: the one place where their flags are read."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments import command, door
from experiments.few_shot import choosing
from experiments.few_shot.adjoints import ADJOINTS
from experiments.few_shot.choosing import CHOICES, Chosen
from experiments.few_shot.data.encoding import ENCODING, WHOLE
from experiments.few_shot.flags import FLAGS
from experiments.few_shot.inner import (
    ADAPTED,
    INNER_OPTIMIZER,
    INNER_STEPS,
    PER_STEP,
)
from experiments.few_shot.models.shared import INIT_STD, WARP

_ABOUT = """Meta-trains a few-shot learner and reports it on unseen tasks with an interval.

python -m experiments.few_shot --flagfile=NAME --workdir=DIR

Later flags override earlier ones. A run that was cut off goes on when started again."""

# What may differ when a run is gone on with: where the data is, of which checkpoints know
# the digests, and how much is held.
_FREE = (
    "data_dir",
    "data_path",
    "num_test_tasks",
    "eval_tasks_per_chunk",
    "tasks_per_chunk",
    "max_skipped",
    "adjoint",
    "remat",
)
# Ways to differentiate the inner loop, of about falling need of memory.
_LADDER = [
    {"adjoint": "unroll", "remat": "none"},
    {"adjoint": "unroll", "remat": "step"},
    {"adjoint": "mixed_mode", "remat": "step"},
    {"adjoint": "unroll", "remat": "nested"},
    {"adjoint": "mixed_mode", "remat": "nested"},
]


def main(started: float) -> None:
    """Runs what the command line asks for.

    Args:
      started: when the command began, by `time.time`.
    """
    command.start(
        FLAGS,
        partial(run_flags, started),
        about=_ABOUT,
        sections_now=choosing.sections,
        lists_now=choosing.lists,
    )


def run_flags(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    from experiments import running

    return running.run(experiment, door.options(FLAGS), settings(), started=started)


def settings():
    """What a run records of the flags."""
    record = Path(FLAGS.workdir or "") / "run.flags"
    before = record.read_text().splitlines() if record.is_file() else []
    fixed = set()
    # Not those by which the result would differ.
    if "implicit" in (choosing.now().names.get("adjoint"), _asked(before, "adjoint")):
        fixed.add("adjoint")
    if FLAGS.outer_schedule != "constant":
        fixed.add("num_steps")
    return door.settings(FLAGS, free=_FREE, fixed=fixed)


def _asked(lines: list[str], name: str) -> str | None:
    return dict(line.lstrip("-").partition("=")[::2] for line in lines).get(name)


def experiment():
    """The experiment that the flags name."""
    import jax

    from experiments.few_shot import assembling

    picked = choosing.now()
    problem = load(picked)
    chunk = FLAGS.tasks_per_chunk
    has_images = picked.data.images and not picked.encoder.takes
    if chunk is None and has_images and jax.default_backend() == "cpu":
        # One task of images keeps a core busy, and more would not fit its caches;
        # accelerators are busier the more there are.
        chunk = 1
    return assembling.experiment(
        problem,
        recipe(picked, problem),
        _outer(picked),
        steps(picked),
        assembling.Tested(
            FLAGS.num_validation_tasks, FLAGS.num_test_tasks, FLAGS.eval_tasks_per_chunk
        ),
        num_tasks=FLAGS.num_tasks,
        tasks_per_chunk=chunk,
        cheaper=_cheaper(picked),
    )._replace(next_steps=_next_steps(problem))


def _next_steps(problem) -> dict[str, str]:
    """What a classifier of few examples can be used for."""
    if not problem.classifies:
        return {}
    shots = FLAGS.eval_shots or FLAGS.shots
    export = f"--ways={problem.eval_outputs} --shots={shots} --out=FILE"
    return {
        "predict": "python -m experiments.predict --workdir=DIR --support=FOLDER "
        "--query=FOLDER",
        "export": f"python -m experiments.export --workdir=DIR {export}",
    }


def load(picked: Chosen):
    """The tasks that the flags name."""
    classes = door.bound(picked.data, CHOICES, **before_encoder(picked))()
    encoder, raw = door.bound(picked.encoder, CHOICES)(), None
    if encoder is not None:
        import jax

        import metajax as mj

        inputs = classes[0].inputs
        raw = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
        classes = [mj.encoders.encode(each, encoder) for each in classes]
    return door.bound(picked.data.tasks, CHOICES)(classes)._replace(raw=raw)


def before_encoder(picked: Chosen) -> dict:
    """Flags that are other than given where a frozen encoder reads texts."""
    return WHOLE if "texts" in picked.encoder.takes else {}


def recipe(picked: Chosen, problem):
    """The learner that the flags name."""
    import optax

    from experiments.few_shot import assembling
    from experiments.optimizers import optimizer as by_name

    learner, read = picked.learner, door.flag_names(picked.learner)
    make = door.bound(learner, CHOICES)
    model = door.bound(picked.model, CHOICES)
    optimizer = None
    if INNER_OPTIMIZER.name in read:
        asked = FLAGS.inner_optimizer, FLAGS.inner_rate, FLAGS.inner_options
        optimizer = by_name(*asked)
        if FLAGS.inner_clip is not None:
            optimizer = optax.chain(optax.clip(FLAGS.inner_clip), optimizer)
    return assembling.Recipe(
        make=make,
        trained=learner.trained or make,
        model=lambda outputs: model(problem, outputs),
        optimizer=optimizer,
        adjoint=_adjoint(picked),
        frozen=FLAGS.frozen,
        belongs_to=_belongs_to(picked),
        rates_by_step=PER_STEP.name in read and "rates" in FLAGS.per_step,
    )


def _belongs_to(picked: Chosen) -> dict[str, str]:
    """What parameters would give other outputs with: the model, and how inputs are read."""
    read = {holder.name: holder.value for holder in picked.model.reads}
    if picked.encoder.takes:
        read |= {holder.name: holder.value for holder in picked.encoder.reads}
        read["encoder"] = picked.names["encoder"]
    elif ENCODING.name in door.flag_names(picked.data):
        read[ENCODING.name] = ENCODING.value
    names = {"model": picked.names["model"], **read}
    fixed = {k: v for k, v in names.items() if k not in (INIT_STD.name, WARP.name)}
    return {name: str(value) for name, value in fixed.items()}


def _adjoint(picked: Chosen, name: str | None = None, **changes) -> Callable:
    """How inner steps are differentiated, as the flags say or otherwise."""
    import metajax as mj

    if picked.learner.adjoint is None:
        return lambda num_steps, **overridden: None
    if "adjoint" not in picked.names:  # Nothing is differentiated.

        def make(num_steps, **overridden):
            return mj.adjoints.unroll(last=0)

    else:
        part = ADJOINTS[name or picked.names["adjoint"]]
        make = door.bound(part, CHOICES, **changes)
    adapts_some = ADAPTED.name in door.flag_names(picked.learner)
    patterns = FLAGS.adapted if adapts_some else []
    if not patterns:
        return make
    return lambda num_steps, **overridden: mj.adjoints.only(
        patterns, make(num_steps, **overridden)
    )


def _cheaper(picked: Chosen) -> dict[str, Callable]:
    """The rungs of the ladder that are not the one given, and that may help."""
    given = {"adjoint": picked.names.get("adjoint"), "remat": FLAGS.remat}
    if given["adjoint"] in (None, "implicit") or not FLAGS.inner_steps:
        return {}
    worth_nesting = FLAGS.inner_steps >= 4
    return {
        f"--adjoint={rung['adjoint']} --remat={rung['remat']}": _adjoint(
            picked, rung["adjoint"], remat=rung["remat"]
        )
        for rung in _LADDER
        if rung != given and (worth_nesting or rung["remat"] != "nested")
    }


def _outer(picked: Chosen):
    """How the flags say that a learner is trained."""
    import optax

    from experiments.few_shot import assembling
    from experiments.optimizers import optimizer as by_name

    rate = door.bound(picked.schedule, CHOICES)(FLAGS.num_steps)
    optimizer = by_name(FLAGS.outer_optimizer, rate, FLAGS.outer_options)
    if FLAGS.outer_clip is not None:
        clip = optax.clip_by_global_norm(FLAGS.outer_clip)
        optimizer = optax.chain(clip, optimizer)
    weights = picked.learner.step_weights
    return assembling.Outer(
        optimizer=assembling.frozen_apart(optimizer, FLAGS.frozen),
        estimator=door.bound(picked.estimator, CHOICES),
        step_weights=door.bound(weights, CHOICES) if weights else _last_alone,
        first_order_until=FLAGS.first_order_until,
        max_skipped=FLAGS.max_skipped,
    )


def _last_alone(step, num_steps) -> None:
    """No weights: the loss after the last inner step alone counts."""
    del step, num_steps


def steps(picked: Chosen):
    """The numbers of inner steps."""
    from experiments.few_shot import assembling

    takes_steps = INNER_STEPS.name in door.flag_names(picked.learner)
    evaluated = (0, 1, 5, 10) if takes_steps else (0,)
    selected = (10,) if takes_steps else (0,)
    return assembling.Steps(
        FLAGS.inner_steps,
        [*map(int, FLAGS.eval_inner_steps or evaluated)],
        [*map(int, FLAGS.select_inner_steps or selected)],
    )
