"""RL^2 by PPO in a game: its sizes, and its training by metajax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.meta_rl import assembling, measuring, outer
from experiments.meta_rl.games import GAMES
from experiments.meta_rl.learners import rl2
from experiments.meta_rl.parts import Game, Learning
from experiments.running import Layout
import metajax as mj
from metajax import rl, steps
from metajax.base import Loss
from metajax.rl.base import Acted


class Setting(NamedTuple):
    """What is trained; the numbers are those of `experiments.meta_rl`."""

    game: str
    arguments: dict[str, Any]  # Of the game.
    num_episodes: int  # Of a trial.
    decay: float
    reward_scale: float
    num_tasks: int = 512
    width: int = 64
    head_width: int = 32
    epochs: int = 2
    parts: int = 4
    clip: float = 0.2
    value_cost: float = 0.5
    entropy_bonus: float = 0.01  # Falls to 0 in so many steps.
    rate: float = 3e-3
    final_rate: float = 3e-4
    max_norm: float = 1.0
    num_steps: int = 400

    @property
    def num_updates(self) -> int:
        return self.num_steps * self.epochs * self.parts


BANDIT = Setting("bandit", {"arms": 5}, 10, decay=0.9, reward_scale=0.1)
TIC_TAC_TOE = Setting("tic_tac_toe", {"tested_rules": "unseen"}, 8, 0.95, 1.0)


class Training(NamedTuple):
    """The parts of a training by metajax."""

    game: Game
    learning: Learning
    step: steps.TrainStep
    state: steps.TrainState


def make(setting: Setting, num_devices: int = 1) -> Training:
    """Training by devices that share the tasks."""
    game = GAMES[setting.game].make(**setting.arguments)
    view = rl.policies.everything(game.environment.actions)
    policy = rl.policies.remembering(
        mj.models.gru(setting.width),
        lambda outputs: mj.models.mlp([setting.head_width], outputs),
        game.environment.actions,
        view,
    )

    def loss(progress: jax.Array) -> Loss:
        bonus = (1 - progress) * setting.entropy_bonus
        return rl.losses.ppo(setting.clip, setting.value_cost, bonus)

    learning = rl2.make(
        game,
        policy,
        episodes=setting.num_episodes,
        outer_loss=loss,
        discount=1.0,
        decay=setting.decay,
        reward_scale=setting.reward_scale,
    )
    rates = setting.rate, setting.final_rate, setting.max_norm
    optimizer = outer.optimizer(setting.num_updates, *rates)
    updates = assembling.Updates(setting.num_steps, setting.epochs, setting.parts)
    mesh = mj.estimators.task_mesh(num_devices) if num_devices > 1 else None
    step = assembling.train_step(learning, optimizer, updates, Layout(None, mesh))
    examples = rl.examples(game.environment)
    state = mj.init_state(jax.random.key(0), learning.learner, optimizer, examples)
    if mesh is not None:
        state = jax.device_put(state, jax.NamedSharding(mesh, jax.P()))
    return Training(game, learning, step, state)


def advancing(training: Training, num_tasks: int, num_steps: int) -> Callable[[], None]:
    """A function that takes so many outer steps more, in one jit, and waits for them."""
    state = jax.tree.map(jnp.copy, training.state)  # Its buffers are given up.

    def advance() -> None:
        nonlocal state
        sampler = training.game.train
        state, _ = jax.block_until_ready(
            mj.train(
                training.step, state, sampler, num_tasks=num_tasks, num_steps=num_steps
            )
        )

    return advance


def playing(game: Game, num_episodes: int, num_tasks: int):
    """Trials of random actions, all at once on one device.

    Returns:
      A function that plays them and waits, and the number of steps in them that are no
      padding.
    """
    environment = game.environment
    trial = rl.trial(environment, rl.exact.random_policy(environment), num_episodes)
    keys = jax.random.split(jax.random.key(0), (num_tasks, 2))
    tasks = jax.jit(jax.vmap(game.train))(keys[:, 0])
    compiled = jax.jit(jax.vmap(lambda key, task: trial(key, (), task)))

    def play() -> mj.Batch:
        return jax.block_until_ready(compiled(keys[:, 1], tasks))

    return play, int(play().mask.sum())


class Update(NamedTuple):
    """What one update goes by and comes to, as NumPy arrays, `[tasks, steps, ...]`."""

    params: dict[str, np.ndarray]
    features: np.ndarray
    legal: np.ndarray | None
    acted: Acted
    normalized: np.ndarray  # Advantages.
    real: np.ndarray
    loss: float
    gradient: dict[str, np.ndarray]


def first_update(training: Training) -> Update:
    """An update by what the initial parameters collect in eight tasks."""
    game, learning, meta = training.game, training.learning, training.state.meta
    keys = jax.random.split(jax.random.key(1), 8)

    @jax.jit
    def find(keys, meta):
        tasks = jax.vmap(game.train)(keys)
        collect = mj.estimators.each_task(learning.collect)
        data = collect(jax.random.key(2), meta, tasks)
        objective = mj.query_loss(learning.learner, learning.loss(0.0))
        estimate = mj.estimators.backprop(objective)
        normalized = measuring.normalized(data)
        (loss, _), gradient = estimate(jax.random.key(3), meta, normalized)
        view = rl.policies.everything(game.environment.actions)
        features = jax.vmap(jax.vmap(view))(data.query.inputs)
        return data.query, features, normalized.query, loss, gradient

    found = jax.device_get(find(keys, meta))
    query, features, normalized, loss, gradient = found
    return Update(
        by_name(jax.device_get(meta)),
        features,
        query.inputs.legal,
        query.targets,
        normalized.targets.advantage,
        query.mask,
        float(loss),
        by_name(gradient),
    )


def by_name(tree) -> dict[str, np.ndarray]:
    """Leaves by their paths, such as "memory/gates/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
