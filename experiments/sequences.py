"""Experiments of a transformer that reads tasks as sequences, example by example."""

from functools import partial
from typing import NamedTuple

from absl import flags

from experiments import door


class Reading(NamedTuple):
    """The flags of a transformer along sequences, and of how it is trained."""

    length: int
    width: int
    layers: int
    heads: int
    rate: float
    num_tasks: int
    num_validation_tasks: int
    num_test_tasks: int


def define_flags(own: flags.FlagValues, length: int, num_tasks: int) -> None:
    """Defines the flags of every run, and those of `Reading`.

    Args:
      own: where to.
      length: examples of a task, by default.
      num_tasks: tasks an outer step, by default.
    """
    door.define_run_flags(own)
    integer = partial(flags.DEFINE_integer, flag_values=own)
    integer("length", length, "Examples of a task.", 2)
    integer("width", 64, "Of the transformer's tokens.", 1)
    integer("layers", 3, "Its blocks.", 1)
    integer("heads", 4, "Their heads, which divide the width.", 1)
    integer("num_tasks", num_tasks, "Tasks a step.", 1)
    integer("num_validation_tasks", 100, "Tasks to choose by.", 2)
    integer("num_test_tasks", 600, "Tasks that each is judged on.", 2)
    flags.DEFINE_float("rate", 1e-3, "Rate of Adam.", 0, flag_values=own)
    flags.register_multi_flags_validator(
        ["width", "heads"],
        lambda found: found["width"] % found["heads"] == 0,
        "--heads must divide --width",
        flag_values=own,
    )


def reading(own: flags.FlagValues) -> Reading:
    """What the flags say."""
    return Reading(**{name: own[name].value for name in Reading._fields})


def experiment(
    reader,
    loss,
    sampler,
    *,
    rate: float,
    num_tasks: int,
    validation,
    test,
    metric,
    shown: list[int],
):
    """Trains a reader along sequences of tasks.

    Args:
      reader: what reads examples in order, a `mj.Model`.
      loss: of each prediction.
      sampler: draws tasks.
      rate: of Adam.
      num_tasks: tasks an outer step.
      validation: what parameters are chosen by.
      test: what they are judged on.
      metric: the one that counts.
      shown: the places that tables have.
    """
    import optax

    from experiments import running
    import metajax as mj

    embedding = as_they_are()
    learner = mj.in_context(embedding, reader)
    objective = mj.sequence_loss(embedding, reader, loss)
    optimizer = optax.adam(rate)

    def step(layout):
        meta_grad = mj.estimators.backprop(objective, **layout._asdict())
        return mj.train_step(meta_grad, optimizer)

    return running.Experiment(
        init=lambda key: mj.init_state(key, learner, optimizer, sampler),
        optimizer=optimizer,
        step=step,
        tasks=sampler,
        num_tasks=num_tasks,
        validation=validation,
        test=test,
        metric=metric,
        advice=lambda last: "a smaller --rate",
        table=partial(running.table, metric=metric, shown=shown),
    )


def as_they_are():
    """An embedding that leaves inputs as they are."""
    import metajax as mj

    return mj.models.mlp([], None)


def transformer(outputs: int, settings: Reading):
    """The transformer that flags describe."""
    import metajax as mj

    return mj.models.in_context_transformer(
        outputs,
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        length=settings.length,
    )


def in_a_row(task):
    """The examples of a task, one after another, as a `mj.Batch`."""
    import jax.numpy as jnp

    import metajax as mj

    pairs = zip(task.support[:2], task.query[:2])
    return mj.Batch(*[jnp.concatenate(pair) for pair in pairs])
