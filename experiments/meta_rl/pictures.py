"""Pictures of playing: returns against what is exact, and trials of each game."""

from collections.abc import Mapping
import io
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from experiments.running import Measurement
from experiments.running.pictures import plt, save
import metajax as mj
from metajax import files
from metajax.rl.environments.key_door import MOVES
from metajax.rl.environments.tic_tac_toe import LINES

_MUTED, _MARKS = "0.55", ("tab:blue", "tab:red")


def returns(found: Measurement, bounds: Mapping[str, np.ndarray], path: Path) -> None:
    """What an episode returns along a trial, with 95% intervals, others and exact values.

    Args:
      found: returns on unseen tasks.
      bounds: exact values at its places, by name.
      path: of the picture.
    """
    figure, axis = plt.subplots(figsize=(5, 3.5))
    each = [mj.summarize(column) for column in found.values["return"].T]
    means, intervals = [r.mean for r in each], [r.interval for r in each]
    learned = {"marker": ".", "capsize": 3, "label": "learned", "zorder": 3}
    axis.errorbar(found.places, means, intervals, **learned)
    for name, values in found.values.items():
        player = name.removesuffix("_total")
        if player != name and np.all(np.diff(found.places, prepend=0) == 1):
            each = np.diff(values.mean(axis=0), prepend=0)
            axis.plot(found.places, each, linewidth=1, label=player)
    lines = {name: values for name, values in bounds.items() if np.ndim(values)}
    for index, (name, values) in enumerate(lines.items()):
        style = ("--", "-.", ":")[index % 3]
        axis.plot(found.places, values, style, color=_MUTED, label=f"{name} (exact)")
    axis.set(xlabel=found.axis, ylabel="return of an episode")
    if found.places[-1] > 20:
        axis.set_xscale("log")
    axis.legend(fontsize=7)
    save(figure, path)


def pulls(play, into: Path) -> None:
    """Which arms are pulled along four trials, the best arm at the top."""
    figure, axes = plt.subplots(4, 1, figsize=(7, 5), sharex=True)
    for index, axis in enumerate(axes):
        means, batch = play(jax.random.key(index))
        order = np.argsort(np.argsort(-np.asarray(means)))
        arm, reward = order[np.asarray(batch.targets.action)], batch.targets.reward
        shades = {"c": np.asarray(reward), "cmap": "coolwarm"}
        axis.scatter(np.arange(len(arm)), arm, s=12, **shades)
        axis.set(yticks=np.arange(len(means)), ylim=(len(means) - 0.5, -0.5))
        axis.set_yticklabels([f"{m:.2f}" for m in sorted(means, reverse=True)], size=6)
        if index == 0:
            axis.set_title(
                "pulls of arms, by their means: blue pays least, red most", size=9
            )
    axes[-1].set_xlabel("pull")
    save(figure, into / "trials.png")


def paths(play, into: Path) -> None:
    """Ways to four goals, from the first episode or step of adaptation to the last."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), sharex=True, sharey=True)
    for index, axis in enumerate(axes):
        goal, batch = play(jax.random.key(index))
        episode = np.asarray(batch.targets.episode)
        shades = plt.cm.viridis(np.linspace(0, 0.9, episode.max() + 1))
        for number in np.unique(episode):
            real = np.asarray(batch.mask) & (episode == number)
            way = np.asarray(batch.inputs.observation)[real]
            axis.plot(*way.T, color=shades[number], linewidth=1, label=str(number))
        axis.plot(*np.asarray(goal), "*", color="tab:red", markersize=12)
        axis.set(aspect="equal", xlim=(-0.8, 0.8), ylim=(-0.8, 0.8))
    axes[0].legend(fontsize=7, title="episode or step")
    save(figure, into / "trials.png")


def boards(play, into: Path) -> None:
    """A trial under one hidden rule: the last boards, and move by move as an animation.

    Winning lines are drawn in, which the player does not see.
    """
    lines, batch = play(jax.random.key(3))
    active = LINES[np.asarray(lines)]
    moves = _moves(batch)
    games = moves[-1][0] + 1
    figure, axes = plt.subplots(1, games, figsize=(1.4 * games, 1.9))
    for number, axis in enumerate(np.atleast_1d(axes)):
        _, board, reward = [move for move in moves if move[0] == number][-1]
        _board(axis, board, active)
        axis.set_title(f"game {number + 1}: {reward:+.0f}", size=8)
    save(figure, into / "trials.png")
    frames, earned = [], 0.0
    for number, board, reward in moves:
        figure, axis = plt.subplots(figsize=(2.6, 2.9))
        earned += reward
        _board(axis, board, active)
        axis.set_title(f"game {number + 1} of {games}, earned {earned:+.0f}", size=9)
        frames.append(_frame(figure))
    _animate(frames, into / "trial.gif")


def _moves(batch) -> list[tuple[int, np.ndarray, float]]:
    """After each real decision: its game, the board that it led to, its reward."""
    seen, acted = batch.inputs, batch.targets
    found = []
    for index in np.flatnonzero(batch.mask):
        if index + 1 < len(batch.mask):
            board = np.asarray(seen.led_to[index + 1])
        else:
            board = np.array(seen.observation[index])
            board[acted.action[index], 0] = 1
        found.append((int(acted.episode[index]), board, float(acted.reward[index])))
    return found


def _board(axis, board: np.ndarray, active: np.ndarray) -> None:
    """Marks on a board, `[9, 2]`, over the lines that win."""
    for line in active:
        rows, columns = np.divmod(line[[0, 2]], 3)
        axis.plot(columns, rows, color="gold", linewidth=6, alpha=0.5, zorder=0)
    for side, mark in enumerate(("x", "o")):
        rows, columns = np.divmod(np.flatnonzero(board[:, side]), 3)
        hollow = {} if mark == "x" else {"facecolors": "none", "edgecolors": _MARKS[1]}
        style = hollow or {"color": _MARKS[0]}
        axis.scatter(columns, rows, marker=mark, s=60, linewidths=2, **style)
    for edge in (0.5, 1.5):
        axis.axhline(edge, color=_MUTED, linewidth=1)
        axis.axvline(edge, color=_MUTED, linewidth=1)
    axis.set(xlim=(-0.5, 2.5), ylim=(2.5, -0.5), xticks=[], yticks=[], aspect="equal")


def mazes(play, into: Path) -> None:
    """Ways through one maze in each episode of a trial: to the key, then to the door."""
    maze, batch = play(jax.random.key(0))
    episode = np.asarray(batch.targets.episode)
    number = int(episode[np.asarray(batch.mask)].max()) + 1
    figure, axes = plt.subplots(1, number, figsize=(1.6 * number, 2))
    for index, axis in enumerate(np.atleast_1d(axes)):
        real = np.asarray(batch.mask) & (episode == index)
        way = _way(np.asarray(maze.walls), np.asarray(batch.targets.action)[real])
        axis.imshow(maze.walls, cmap="Greys", vmax=2)
        axis.plot(*np.transpose(way)[::-1], color=_MARKS[0])
        for mark, place in (("*", maze.key), ("s", maze.door)):
            axis.plot(place[1], place[0], mark, color=_MARKS[1])
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"episode {index + 1}: {real.sum()} steps", size=7)
    save(figure, into / "trials.png")


def _way(walls: np.ndarray, actions: np.ndarray) -> list[np.ndarray]:
    """The cells that moves lead to, from the corner."""
    way = [np.zeros(2, int)]
    for action in actions:
        to = np.clip(way[-1] + MOVES[action], 0, len(walls) - 1)
        way.append(way[-1] if walls[tuple(to)] else to)
    return way


def _frame(figure) -> Image.Image:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80, format="png")
    plt.close(figure)
    return Image.open(drawn).convert("P", palette=Image.Palette.ADAPTIVE)


def _animate(frames: list[Image.Image], path: Path) -> None:
    """Writes frames as a GIF that begins anew, half a second each."""
    with files.whole(path) as file:
        rest = {"append_images": frames[1:], "duration": 500, "loop": 0}
        frames[0].save(file, format="GIF", save_all=True, **rest)
