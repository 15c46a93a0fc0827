"""Playing step by step with what was learned, in games that are no pure functions."""

from functools import partial
import math
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np

from metajax import contracts, using
from metajax.base import Key, Params, PyTree
from metajax.rl.acting import first_seen, next_seen
from metajax.rl.base import Environment, Memory, Policy, Seen, TimeStep


class Player(NamedTuple):
    """A policy with what it has learned, whose memory goes on learning as it plays.

    Attributes:
      environment: the game that it was trained on.
      policy: the policy.
      params: its parameters.
      num_episodes: episodes of a trial, as in training.

    Example:
      Tic-tac-toe against whoever makes the other moves:

      >>> player = load("runs/tic_tac_toe")  # doctest: +SKIP
      >>> trial = player.trial()  # doctest: +SKIP
      >>> move = trial.begin(board, legal=board.sum(axis=1) == 0)  # doctest: +SKIP
      >>> move = trial.step(board, reward=0, legal=legal)  # doctest: +SKIP
      >>> trial.end(board, reward=1)  # doctest: +SKIP
    """

    environment: Environment
    policy: Policy
    params: Params
    num_episodes: int

    def trial(self, *, seed: int = 0) -> "Trial":
        """Begins a trial, along which it remembers.

        Args:
          seed: of the actions that it draws.
        """
        return Trial(self, seed)


def load(workdir: str | Path) -> Player:
    """A finished run that learned to play, to be used.

    Args:
      workdir: the run's directory; of several seeds, that of one.

    Returns:
      The player. In games of JAX, `trial(player.environment, player.policy, n)` plays whole
      trials with its params.

    Raises:
      ValueError: if there is no finished run, or one whose parameters adapt by gradients;
        it says why.

    Note:
      As `metajax.load`: load no run that you would not execute.
    """
    found = using.read_run(workdir)
    if not isinstance(found, Player):
        raise ValueError(f"{workdir} holds no player of games: use metajax.load.")
    return found


class Trial:
    """Some episodes in a row in one task, decision by decision."""

    def __init__(self, player: Player, seed: int):
        self._player = player
        self._key = jax.random.key(seed)
        self._memory: Memory = player.policy.start(player.params)
        self._like = jax.eval_shape(partial(_shown, player.environment))
        self._left = player.num_episodes * player.environment.horizon
        self._begun, self._steps = 0, 0  # Episodes; decisions in the last of them.
        self._playing = False
        self._seen: Seen | None = None  # Before the last decision,
        self._action: Any = None  # the action then,
        self._led_to: TimeStep | None = None  # and where it led to.

    def begin(self, observation: PyTree, *, legal: PyTree = None) -> int | np.ndarray:
        """The first action of an episode.

        Args:
          observation: what is seen, as the game that it was trained on shows it.
          legal: bool `[actions]`, which are allowed, if that game says so.

        Returns:
          An integer, or real numbers `[size]`.

        Raises:
          ValueError: if an episode has not ended, if there were as many as in a trial of
            training, or if arguments do not fit that game.
        """
        if self._playing:
            raise ValueError("An episode has not ended: call end before begin.")
        most = self._player.num_episodes
        if self._begun == most:
            raise ValueError(
                f"This trial has had its {most} episodes, as many as in training: begin "
                "another."
            )
        shown = self._checked(observation, 0.0, legal)
        if self._seen is None or self._led_to is None:
            seen = first_seen(self._player.environment, shown, self._left)
        else:
            seen = next_seen(
                self._seen, shown, self._led_to, self._action, jnp.bool_(True)
            )
        self._begun, self._steps = self._begun + 1, 0
        return self._act(seen)

    def step(
        self, observation: PyTree, reward: float, *, legal: PyTree = None
    ) -> int | np.ndarray:
        """The next action of an episode that goes on.

        Args:
          observation: where the last action led to.
          reward: for it.
          legal: as in `begin`.

        Returns:
          As `begin`.

        Raises:
          ValueError: if no episode has begun, or if it has had as many actions as in
            training; else as `begin`.
        """
        seen, horizon = self._last_seen(), self._player.environment.horizon
        if self._steps == horizon:
            raise ValueError(
                f"An episode has at most {horizon} actions, as in training: end it."
            )
        shown = self._checked(observation, reward, legal)
        return self._act(next_seen(seen, shown, shown, self._action, jnp.bool_(False)))

    def end(self, observation: PyTree, reward: float) -> None:
        """Ends an episode; what its last action led to must be seen like all else.

        Args:
          observation: where it led to.
          reward: for it.

        Raises:
          ValueError: as `step`.
        """
        self._last_seen()
        legal = self._like.legal
        all_of_them = None if legal is None else np.ones(legal.shape, bool)
        self._led_to = self._checked(observation, reward, all_of_them)
        self._playing = False

    def _last_seen(self) -> Seen:
        if not self._playing or self._seen is None:
            raise ValueError("No episode has begun: call begin first.")
        return self._seen

    def _act(self, seen: Seen) -> int | np.ndarray:
        player, key = self._player, jax.random.fold_in(self._key, self._left)
        self._memory, self._action = _decide(
            player.policy, key, player.params, self._memory, seen
        )
        self._left, self._steps = self._left - 1, self._steps + 1
        self._seen, self._playing = seen, True
        action = np.asarray(self._action)
        return action if action.ndim else int(action)

    def _checked(self, observation: PyTree, reward: float, legal: PyTree) -> TimeStep:
        """What is shown, if it is as in training."""
        if not isinstance(reward, SupportsFloat) or not math.isfinite(float(reward)):
            raise ValueError(f"A reward must be a finite number: got {reward!r}.")
        like = self._like
        try:
            shown = TimeStep(
                jax.tree.map(_as_like, like.observation, observation),
                jnp.float32(float(reward)),
                jnp.bool_(False),
                jax.tree.map(_as_like, like.legal, legal),
            )
        except (TypeError, ValueError):
            raise ValueError(
                "What is shown must be finite and as in the game of training, observation "
                f"{_described(like.observation)} and legal {_described(like.legal)}: got "
                f"{_described(observation)} and {_described(legal)}."
            ) from None
        if shown.legal is not None and not shown.legal.any():
            raise ValueError("No action is legal: end the episode.")
        return shown


def _as_like(like: jax.ShapeDtypeStruct, value: Any) -> jax.Array:
    array = np.asarray(value)
    if array.shape != like.shape or not np.isfinite(array).all():
        raise ValueError
    return jnp.asarray(array, like.dtype)


def _shown(environment: Environment) -> TimeStep:
    key = jax.random.key(0)
    return environment.reset(key, environment.sample(key))[1]


def _described(tree: PyTree) -> str:
    return ", ".join(map(contracts.described, jax.tree.leaves(tree))) or "none"


@partial(jax.jit, static_argnums=0)
def _decide(policy: Policy, key: Key, params: Params, memory: Memory, seen: Seen):
    memory, decision = policy.step(params, memory, seen)
    return memory, decision.actions.sample(key)
