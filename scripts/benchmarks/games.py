"""Learning to play in one jit, beside a Python loop of PyTorch; and games by themselves."""

from collections.abc import Callable
from functools import partial
import importlib.util
import json
from pathlib import Path
from statistics import median
import sys
import time
from typing import Any

import jax
import numpy as np

from experiments.meta_rl.games import GAMES
from experiments.running import startup

from . import game_training, peers
from .game_training import BANDIT, TIC_TAC_TOE, Setting

# Outer steps of a timing of metajax.
STEPS = {"bandit": 10, "tic_tac_toe": 2}
NUM_TASKS = (1, 8, 64, 512, 4096)
ONE_BY_ONE = 4  # Tasks of a timing of those that are played one after another.
AGREES = 1e-3  # In float32, of advantages, loss and gradient.
# By game: its arguments, episodes of a trial, and the library that it needs.
PLAYED = {
    "bandit": ({"arms": 5}, 10, None),
    "tabular_mdp": ({"states": 10, "actions": 5, "horizon": 10}, 10, None),
    "navigation": ({"patience": 100}, 1, None),
    "tic_tac_toe": ({"tested_rules": "unseen"}, 8, None),
    "key_door": ({}, 2, None),
    "connect_four": ({}, 2, "pgx"),
    "minigrid": ({"objects": 4, "time": 40}, 2, "xminigrid"),
}
LEGEND = f"""\
Training: RL^2 by PPO, a GRU of {BANDIT.width}, {BANDIT.num_tasks} tasks, \
{BANDIT.epochs} x {BANDIT.parts} updates a step.
  metajax: in one jit, tasks shared by a device a core.
  loop: many games at a time by NumPy, network and losses the same by PyTorch, which are
  compared first (error), on one thread or one a core, whichever is quicker.
  loop, nn.GRU: the same, but with PyTorch's own unit.
  one by one: a game and a decision at a time ({ONE_BY_ONE} tasks, scaled by their steps);
  updates as in the loop.
  x: over metajax in the same round, median and range; x CPU: the same of CPU seconds.
Steps of the environment are those that are no padding, counted in random play.
By number of tasks: playing is random, training whole outer steps, on one device; so is
random play of each game."""


def run(out: Path, quick: bool) -> dict[str, Any]:
    """Measures all three, and writes `games.json` after each of them.

    Args:
      out: the directory for it.
      quick: whether to take two rounds, of bandits alone, of few tasks.

    Returns:
      By name "training", "growth" and "games", rows by name.
    """
    if jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", startup.num_cores())
    settings = (BANDIT,) if quick else (BANDIT, TIC_TAC_TOE)
    rounds = 2 if quick else 7
    few = NUM_TASKS[: 2 if quick else None]
    results = {}
    for name, measure in {
        "training": lambda: {each.game: _training(each, rounds) for each in settings},
        "growth": lambda: {each.game: _growth(each, few, rounds) for each in settings},
        "games": lambda: _games(rounds, 8 if quick else 512),
    }.items():
        results[name] = measure()
        (out / "games.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(results: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        f"{'training':28s} ms a step  env steps/s  updates/s       x  range"
        f"{'x CPU':>17s}     error"
    ]
    for game, found in results["training"].items():
        rates = found["env_steps"], BANDIT.epochs * BANDIT.parts
        for name, row in found["rows"].items():
            cells = _training_cells(row, found["rows"]["metajax"], rates)
            error = f"{row['error']:10.0e}" if "error" in row else ""
            lines.append(f"{game + ', ' + name:28s} {cells}{error}")
        if found["torch_threads"]:
            lines.append(f"{game}: {found['torch_threads']} thread(s) of PyTorch")
        else:
            lines.append("PyTorch is absent: pip install -e '.[benchmark]'")
    lines.append("\nus a step of the environment, by number of tasks")
    for game, rows in results["growth"].items():
        for what in ("playing", "training"):
            cells = [f"{row['tasks']}: {1e6 * row[what]:.3g}" for row in rows]
            lines.append(f"{game + ', ' + what:28s} {'   '.join(cells)}")
    lines.append(f"\n{'random play':28s} env steps/s  of a CPU second")
    for game, row in results["games"].items():
        rates = [row["env_steps"] / row[each] for each in ("seconds", "cpu_seconds")]
        lines.append(f"{game:28s} {rates[0]:11,.0f} {rates[1]:16,.0f}")
    return "\n".join([*lines, "", LEGEND])


def _training_cells(row, ours, rates: tuple[float, float]) -> str:
    seconds = median(row["seconds"])
    ratios, cpu_ratios = (
        [theirs / own for theirs, own in zip(row[each], ours[each])]
        for each in ("seconds", "cpu_seconds")
    )
    spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
    return (
        f"{1e3 * seconds:9.1f} {rates[0] / seconds:12,.0f} {rates[1] / seconds:10.1f} "
        f"{median(ratios):7.2f}  {spread:13s} {median(cpu_ratios):8.2f}"
    )


def _training(setting: Setting, rounds: int) -> dict[str, Any]:
    """Whole outer steps of metajax and of its peers, in turn."""
    ours = game_training.make(setting)
    _, env_steps = game_training.playing(
        ours.game, setting.num_episodes, setting.num_tasks
    )
    num_steps = STEPS[setting.game]
    errors, threads, timings = {}, None, []
    for name, devices in (("metajax", jax.device_count()), ("metajax, one core", 1)):
        advance = game_training.advancing(
            game_training.make(setting, devices), setting.num_tasks, num_steps
        )
        timings.append(partial(_ours, name, advance, num_steps))
    if importlib.util.find_spec("torch"):
        theirs, errors["loop"], threads = _by_torch(setting, ours, env_steps)
        timings += theirs
    rows = {}
    for index in range(rounds + 1):  # The first compiles.
        _say(f"{setting.game}, training: round {index} of {rounds}")
        for measure in timings:
            for name, seconds in measure().items():
                rows.setdefault(name, []).append(seconds)
    found = {}
    for name, values in rows.items():
        seconds, cpu_seconds = zip(*values[1:])
        found[name] = {"seconds": seconds, "cpu_seconds": cpu_seconds}
        found[name] |= {"error": errors[name]} if name in errors else {}
    return {"env_steps": env_steps, "torch_threads": threads, "rows": found}


def _ours(name: str, advance: Callable[[], None], num_steps: int):
    return {name: _timed(advance, steps=num_steps)}


def _by_torch(setting: Setting, ours: game_training.Training, env_steps: int):
    """Functions that time outer steps, the error of the first update, and threads."""
    from . import torch_rl2

    update = game_training.first_update(ours)
    error = disagreement(setting, update)
    if not error < AGREES:  # Nor is NaN.
        raise ValueError(f"{setting.game}: PyTorch disagrees, relative error {error}.")
    by_hand, by_library = (
        torch_rl2.training(setting, make(update.params))
        for make in (torch_rl2.by_hand, torch_rl2.by_library)
    )
    threads = _quicker_threads(setting, *by_hand)

    def both() -> dict[str, np.ndarray]:
        (collect, learn), found, few = by_hand, [], []
        collecting = _timed(lambda: found.append(collect(setting.num_tasks)))
        learning = _timed(lambda: learn(found[0]))
        alone = _timed(lambda: few.extend(collect(1) for _ in range(ONE_BY_ONE)))
        alone = alone * env_steps / sum(trials.real.sum() for trials in few)
        return {"loop": collecting + learning, "one by one": alone + learning}

    def library() -> dict[str, np.ndarray]:
        collect, learn = by_library
        return {"loop, nn.GRU": _timed(lambda: learn(collect(setting.num_tasks)))}

    return [both, library], error, threads


def _quicker_threads(setting: Setting, collect, learn) -> int:
    """Sets PyTorch to one thread or to one a core: many wait where others work, too."""
    import torch

    seconds = {}
    for number in (1, startup.num_cores()):
        torch.set_num_threads(number)
        steps = [_timed(lambda: learn(collect(setting.num_tasks))) for _ in range(4)]
        seconds[number] = min(step[0] for step in steps)
    torch.set_num_threads(min(seconds, key=seconds.get))
    return torch.get_num_threads()


def disagreement(setting: Setting, update: game_training.Update) -> float:
    """The largest relative error of PyTorch's advantages, loss and gradient."""
    from . import torch_rl2

    policy = torch_rl2.by_hand(update.params)
    loss, gains = torch_rl2.first_loss(setting, policy, update)
    loss.backward()
    gradient = {name: leaf.grad.cpu().numpy() for name, leaf in policy.params.items()}
    return peers.difference(
        {
            "loss": update.loss,
            "gradient": update.gradient | {"gains": update.acted.advantage},
        },
        {"loss": loss.item(), "gradient": gradient | {"gains": gains}},
    )


def _growth(setting: Setting, numbers, rounds: int) -> list[dict[str, float]]:
    """Seconds a step of the environment, by number of tasks."""
    rows, timings = [], []
    for number in numbers:
        few = setting._replace(num_tasks=number, parts=min(setting.parts, number))
        training = game_training.make(few)
        play, env_steps = game_training.playing(
            training.game, setting.num_episodes, number
        )
        times = max(1, 512 // number)
        advance = game_training.advancing(training, number, times)
        advance()  # Compiles.
        timings.append((play, advance, times))
        rows.append({"tasks": number, "env_steps": env_steps})
        _say(f"{setting.game}: {number} tasks compiled")
    found = [
        [
            (_timed(play, calls=times), _timed(advance, steps=times))
            for play, advance, times in timings
        ]
        for _ in range(rounds)
    ]
    for index, row in enumerate(rows):
        playing, training = zip(*[each[index] for each in found])
        row["playing"] = median(seconds[0] for seconds in playing) / row["env_steps"]
        row["training"] = median(seconds[0] for seconds in training) / row["env_steps"]
    return rows


def _games(rounds: int, num_tasks: int) -> dict[str, dict[str, float]]:
    """Seconds of random play of each game."""
    timings = {}
    for name, (arguments, num_episodes, needed) in PLAYED.items():
        if needed is None or importlib.util.find_spec(needed):
            game = GAMES[name].make(**arguments)
            timings[name] = game_training.playing(game, num_episodes, num_tasks)
            _say(f"{name} compiled")
    found = [
        {name: _timed(play, calls=3) for name, (play, _) in timings.items()}
        for _ in range(rounds)
    ]
    return {
        name: {
            "env_steps": env_steps,
            "seconds": median(each[name][0] for each in found),
            "cpu_seconds": median(each[name][1] for each in found),
        }
        for name, (_, env_steps) in timings.items()
    }


def _timed(function: Callable[[], Any], calls: int = 1, steps: int = 1) -> np.ndarray:
    """Seconds and CPU seconds of one step of a function that takes so many a call."""
    time.sleep(peers.PAUSE_SECONDS)
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    ended = time.perf_counter() - start, time.process_time() - cpu_start
    return np.array(ended) / (calls * steps)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
