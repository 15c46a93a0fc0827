"""From a game and a way to learn it to an experiment; nothing here knows of flags."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import running
from experiments.meta_rl import measuring
from experiments.meta_rl.parts import Game, Learning
from experiments.running import Experiment, Layout, Measure, Measurement, Metric
import metajax as mj
from metajax import rl, steps
from metajax.base import MetaParams, Sampler


class Updates(NamedTuple):
    """How many outer steps there are, and the updates of each."""

    num_steps: int
    epochs: int
    parts: int


class Tested(NamedTuple):
    """On how many tasks parameters are chosen and judged, so many at a time."""

    num_validation_tasks: int
    num_test_tasks: int
    tasks_per_chunk: int


def experiment(
    game: Game,
    learning: Learning,
    optimizer: optax.GradientTransformation,
    updates: Updates,
    tested: Tested,
    *,
    num_tasks: int,
    tasks_per_chunk: int | None = None,
    belongs_to: dict[str, str],
) -> Experiment:
    """Learning to play: training and testing.

    Args:
      game: what is played.
      learning: how it is learned.
      optimizer: the outer optimizer.
      updates: how often it is called.
      tested: numbers of tasks to choose by and to report.
      num_tasks: tasks an outer step.
      tasks_per_chunk: as in `Experiment`.
      belongs_to: as in `Experiment`.
    """
    check_rewards(game)
    metric = Metric(measuring.chosen_by(learning), larger_is_better=True)
    examples = rl.examples(game.environment)

    def measure(sampler: Sampler, objective, places, seed: int, number: int) -> Measure:
        return running.on_tasks(
            sampler,
            {places: objective},
            axis=learning.axis,
            seed=seed,
            num_tasks=number,
            tasks_per_chunk=min(tested.tasks_per_chunk, number),
        )

    validation = measure(
        game.validation,
        learning.chosen,
        (learning.chosen_place,),
        running.VALIDATION,
        tested.num_validation_tasks,
    )
    test = measure(
        game.test,
        measuring.beside_players(game, learning),
        learning.places,
        running.TEST,
        tested.num_test_tasks,
    )
    return Experiment(
        init=lambda key: mj.init_state(key, learning.learner, optimizer, examples),
        optimizer=optimizer,
        step=partial(train_step, learning, optimizer, updates),
        tasks=game.train,
        num_tasks=num_tasks,
        validation=validation,
        test=test,
        metric=metric,
        tasks_per_chunk=tasks_per_chunk,
        advice=lambda last: "a smaller --rate, or rewards that are finite",
        table=partial(measuring.table, game, learning, metric),
        draw=partial(_draw, game, learning),
        card=partial(_card, learning),
        belongs_to=belongs_to,
    )


def train_step(
    learning: Learning,
    optimizer: optax.GradientTransformation,
    updates: Updates,
    layout: Layout,
) -> steps.TrainStep:
    """The outer step: collect with the parameters, and update them by it."""

    def meta_grad_at(step: jax.Array):
        progress = jnp.minimum(step / max(updates.num_steps, 1), 1)
        objective = mj.query_loss(
            learning.learner, learning.loss(progress), **learning.metrics
        )
        return mj.estimators.backprop(objective, **layout._asdict())

    collected = mj.Collected(
        mj.estimators.each_task(learning.collect, **layout._asdict()),
        updates.epochs,
        updates.parts,
        measuring.normalized,
    )
    return mj.scheduled_step(meta_grad_at, optimizer, collected=collected)


def check_rewards(game: Game) -> None:
    """Refuses a game whose rewards are not finite, by a few random episodes.

    Raises:
      ValueError: if one is not.
    """
    environment = game.environment
    act = rl.trial(environment, rl.exact.random_policy(environment), 2)

    def play(key: jax.Array) -> jax.Array:
        task_key, act_key = jax.random.split(key)
        return act(act_key, (), game.train(task_key)).targets.reward

    rewards = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 8))
    if not np.isfinite(rewards).all():
        raise ValueError(
            "The game gives rewards that are not finite to random actions: mend the "
            "step of its environment."
        )


def _card(learning: Learning, found: Measurement) -> dict[str, Any]:
    """What `using.load` needs to know; of parameters that adapt, nothing can be used."""
    del found
    if learning.adapts:
        return {}
    return {
        "made_by": "experiments.meta_rl.using",
        "num_episodes": learning.chosen_place,
    }


def _draw(
    game: Game, learning: Learning, meta: MetaParams, found: Measurement, into: Path
) -> None:
    """Draws what was earned, and what playing looks like."""
    from experiments.meta_rl import pictures

    bounds = measuring.bounds_at(game, learning)
    pictures.returns(found, bounds, into / "returns.png")
    if game.draw is None:
        return

    @jax.jit
    def play(key: jax.Array):
        task_key, act_key = jax.random.split(key)
        task = game.test(task_key)
        return task, learning.play(act_key, meta, task)

    game.draw(play, into)
