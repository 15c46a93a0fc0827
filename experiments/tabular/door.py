"""Pre-trains a network on drawn tables, so that it predicts in tables it has never seen.

python -m experiments.tabular --workdir=DIR

Its parameters, `DIR/best.npz`, are what `mj.tabular.Classifier` and `Regressor` take.
"""

from functools import partial

from experiments import command, door
from experiments.defining import Flags

_own = Flags(num_steps=2000, log_every_steps=50, eval_every_steps=250)
FLAGS = _own.values
_own.one_of(
    "prior",
    "classes",
    ["classes", "numbers", "linear_regression", "gaussian_process"],
    "What is drawn: tables with classes or numbers to predict, or regressions whose best "
    "predictor is known, which the network is then held against.",
)
_own.integer("classes", 10, "Classes of a table, at most.", 2)
_own.integer("features", 5, "Columns of a table, at most.", 1)
_SHOTS = _own.integer("shots", 48, "Rows to learn from, at most.", 1)
_FEWEST = _own.integer("fewest_shots", 10, "Rows to learn from, at least.", 1)
_own.integer("queries", 16, "Rows to predict.", 1)
_own.integer("depth", 3, "Layers of a table's causal graph, at most.", 1)
_own.integer("nodes", 10, "Nodes of each, at most.", 2)
_NOISE = _own.number("noise_std", 1.0, "Of the graph's noise, at most.")
_MISSING = _own.number("missing", 0.2, "Share of tables with missing values.")
_WIDTH = _own.integer("width", 64, "Of a cell.", 1)
_own.integer("layers", 3, "Of the network.", 1)
_HEADS = _own.integer("heads", 2, "Attention heads.", 1)
_own.integer("num_tasks", 16, "Tables an outer step.", 1)
_RATE = _own.number("outer_rate", 2e-3, "Rate of AdamW, which falls to 0.")
_own.integer("warmup_steps", 100, "Outer steps in which it rises from 0.", 0)
_own.integer("num_validation_tasks", 200, "Tables to choose by.", 2)
_own.integer("num_test_tasks", 600, "Unseen tables to report.", 2)
_own.positive(_RATE, _NOISE)
_own.shares(_MISSING)


@_own.refuse("--fewest_shots must not be more than --shots", _SHOTS, _FEWEST)
def _in_order(values):
    return values["fewest_shots"] <= values["shots"]


@_own.refuse("--heads must divide --width", _WIDTH, _HEADS)
def _divides(values):
    return values["width"] % values["heads"] == 0


def main(started: float) -> None:
    """Runs what the command line asks for."""
    command.start(FLAGS, partial(run, started), about=__doc__)


def run(started: float | None = None) -> int:
    """Runs what the flags say, and returns the exit code."""
    from experiments import running

    options = door.options(FLAGS)
    if FLAGS.prior == "gaussian_process" and options.num_devices is None:
        options = options._replace(num_devices=_devices_that_factorise())
    # The rate falls along them.
    fixed = ("num_steps",)
    settings = door.settings(FLAGS, free=("num_test_tasks",), fixed=fixed)
    return running.run(experiment, options, settings, started=started)


def _devices_that_factorise() -> int | None:
    """One before JAX 0.11.2, where several may wait for each other for ever.

    There many matrices are factorised on threads of a pool, which a thread of the same pool
    waits for: with as many devices of a CPU as threads, none may be left to do it.
    """
    import jax

    return 1 if jax.__version_info__ < (0, 11, 2) else None


def experiment():
    """The experiment that the flags name."""
    import optax

    from experiments.tabular import study
    import metajax as mj

    classes = FLAGS.classes if FLAGS.prior == "classes" else None
    rates = optax.warmup_cosine_decay_schedule(
        *(0.0, FLAGS.outer_rate, FLAGS.warmup_steps),
        max(FLAGS.num_steps, FLAGS.warmup_steps + 1),
    )
    return study.experiment(
        tables(classes),
        mj.models.table_transformer(
            classes, width=FLAGS.width, layers=FLAGS.layers, heads=FLAGS.heads
        ),
        classes,
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(rates, weight_decay=1e-2)
        ),
        num_tasks=FLAGS.num_tasks,
        num_validation_tasks=FLAGS.num_validation_tasks,
        num_test_tasks=FLAGS.num_test_tasks,
        sizes={
            "classes": str(classes or 0),
            **{name: str(FLAGS[name].value) for name in ("width", "layers", "heads")},
        },
    )


def tables(classes: int | None):
    """The sampler that the flags name."""
    import metajax as mj

    rows = FLAGS.shots, FLAGS.queries
    if FLAGS.prior == "linear_regression":
        return mj.data.LinearRegression(FLAGS.features, *rows, FLAGS.noise_std)
    if FLAGS.prior == "gaussian_process":
        return mj.data.GaussianProcess(*rows)
    return mj.data.Tables(
        *(FLAGS.features, classes, *rows, FLAGS.fewest_shots),
        *(FLAGS.depth, FLAGS.nodes, FLAGS.noise_std, FLAGS.missing),
    )
