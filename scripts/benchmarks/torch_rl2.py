"""RL^2 by PPO the usual way: a Python loop, games by NumPy, the policy by PyTorch."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from . import numpy_games
from .game_training import Setting, Update
from .torch_models import DEVICE

Tensors = dict[str, torch.Tensor]


class Policy(NamedTuple):
    """A gated recurrent unit with two heads.

    Attributes:
      params: by name.
      step: `(memory, features) -> memory`, `[tasks, ...]`.
      along: `features -> memories`, `[steps, tasks, ...]`, from an empty memory.
    """

    params: Tensors
    step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    along: Callable[[torch.Tensor], torch.Tensor]
    width: int

    def decide(self, memories: torch.Tensor, legal: torch.Tensor | None):
        """Logarithms of the probabilities of actions, and values."""
        logits = self._head("actions", memories)
        if legal is not None:
            logits = logits.masked_fill(~legal, -1e9)
        return F.log_softmax(logits, dim=-1), self._head("value", memories)[..., 0]

    def _head(self, name: str, memories: torch.Tensor) -> torch.Tensor:
        hidden, last = (
            [self.params[f"heads/{name}/{layer}/{leaf}"] for leaf in ("kernel", "bias")]
            for layer in ("Dense_0", "head")
        )
        return torch.relu(memories @ hidden[0] + hidden[1]) @ last[0] + last[1]


def by_hand(arrays: dict[str, np.ndarray]) -> Policy:
    """The unit of metajax: reset before the product; inputs of all steps in one product."""
    params = {
        name: torch.tensor(array, device=DEVICE, requires_grad=True)
        for name, array in arrays.items()
    }
    width = len(arrays["memory/candidate/bias"])

    def of_inputs(features: torch.Tensor):
        return [
            features @ params[f"memory/{name}/kernel"][width:]
            + params[f"memory/{name}/bias"]
            for name in ("gates", "candidate")
        ]

    def advance(memory, gates, candidate):
        kernel = params["memory/gates/kernel"][:width]
        reset, keep = torch.sigmoid(gates + memory @ kernel).chunk(2, dim=1)
        kernel = params["memory/candidate/kernel"][:width]
        new = torch.tanh(candidate + (reset * memory) @ kernel)
        return keep * memory + (1 - keep) * new

    def along(features: torch.Tensor) -> torch.Tensor:
        memory = features.new_zeros(features.shape[1], width)
        memories = []
        for place in zip(*of_inputs(features)):
            memory = advance(memory, *place)
            memories.append(memory)
        return torch.stack(memories)

    def step(memory, features):
        return advance(memory, *of_inputs(features))

    return Policy(params, step, along, width)


def by_library(arrays: dict[str, np.ndarray]) -> Policy:
    """PyTorch's own unit, whose reset comes after the product, of the same size."""
    width = len(arrays["memory/candidate/bias"])
    unit = nn.GRU(len(arrays["memory/candidate/kernel"]) - width, width).to(DEVICE)
    heads = {
        name: torch.tensor(array, device=DEVICE, requires_grad=True)
        for name, array in arrays.items()
        if name.startswith("heads")
    }
    weights = dict(unit.named_parameters())

    def step(memory, features):
        return torch.gru_cell(features, memory, *weights.values())

    return Policy(heads | weights, step, lambda features: unit(features)[0], width)


class Trials(NamedTuple):
    """What was collected, `[steps, tasks, ...]`."""

    features: torch.Tensor
    legal: torch.Tensor | None
    actions: torch.Tensor
    log_probs: torch.Tensor
    values: np.ndarray
    rewards: np.ndarray
    real: np.ndarray


@torch.no_grad()
def collect(
    setting: Setting, policy: Policy, random: np.random.Generator, number: int
) -> Trials:
    """Trials of so many tasks side by side; it ends when all of them are over."""
    games = numpy_games.GAMES[setting.game](random, number)
    num_steps = setting.num_episodes * games.horizon
    memory = torch.zeros(number, policy.width, device=DEVICE)
    led_to = np.zeros((number, games.size), np.float32)
    last = np.zeros((number, games.actions), np.float32)
    rewards = np.zeros(number, np.float32)
    first, episodes = np.ones(number, bool), np.zeros(number, int)
    steps = []
    for index in range(num_steps):
        real = episodes < setting.num_episodes
        if not real.any():
            break
        left = np.log1p(np.float32(num_steps - index)) / 5
        of_all = np.broadcast_to(np.float32([index == 0, left]), (number, 2))
        seen = [games.observation, led_to, last, rewards[:, None], first[:, None]]
        features = torch.from_numpy(np.hstack([*seen, of_all])).to(DEVICE)
        legal = games.legal
        legal = None if legal is None else torch.from_numpy(legal).to(DEVICE)
        memory = policy.step(memory, features)
        log_probs, values = policy.decide(memory, legal)
        actions = torch.multinomial(log_probs.exp(), 1)
        chosen = log_probs.gather(1, actions)[:, 0]
        actions = actions[:, 0]
        moves = actions.cpu().numpy()
        rewards, first = games.step(moves)
        values = np.where(real, values.cpu().numpy(), 0)
        earned = np.where(real, rewards, 0)
        steps.append((features, legal, actions, chosen, values, earned, real))
        led_to, last = games.observation, np.eye(games.actions, dtype=np.float32)[moves]
        games.restart(first)
        episodes += first
    features, legal, actions, chosen, *rest = zip(*steps)
    return Trials(
        torch.stack(features),
        None if legal[0] is None else torch.stack(legal),
        torch.stack(actions),
        torch.stack(chosen),
        *map(np.stack, rest),
    )


def advantages(setting: Setting, rewards: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Generalised advantages, undiscounted, `[steps, tasks]`."""
    found, gain = np.empty_like(values), 0.0
    later = np.zeros_like(values[0])
    for index in reversed(range(len(rewards))):
        error = setting.reward_scale * rewards[index] + later - values[index]
        gain = found[index] = error + setting.decay * gain
        later = values[index]
    return found


def ppo(
    setting: Setting,
    policy: Policy,
    trials: Trials,
    gains: torch.Tensor,
    targets: torch.Tensor,
    entropy_bonus: float,
) -> torch.Tensor:
    """The loss: mean over the real steps of a task, then over tasks."""
    log_probs, values = policy.decide(policy.along(trials.features), trials.legal)
    chosen = log_probs.gather(2, trials.actions[..., None])[..., 0]
    ratio = torch.exp(chosen - trials.log_probs)
    clamped = ratio.clamp(1 - setting.clip, 1 + setting.clip)
    entropy = -(log_probs.exp() * log_probs).sum(dim=2)
    costs = (
        setting.value_cost * (values - targets) ** 2
        - entropy_bonus * entropy
        - torch.minimum(ratio * gains, clamped * gains)
    )
    real = torch.tensor(trials.real, device=DEVICE)
    return (torch.where(real, costs, 0).sum(0) / real.sum(0)).mean()


def first_loss(
    setting: Setting, policy: Policy, update: Update
) -> tuple[torch.Tensor, np.ndarray]:
    """The loss of what metajax has collected, and advantages, `[tasks, steps]`."""

    def ready(array: np.ndarray | None):
        if array is None:
            return None
        return torch.tensor(np.ascontiguousarray(array.swapaxes(0, 1)), device=DEVICE)

    acted = update.acted
    trials = Trials(
        ready(update.features),
        ready(update.legal),
        ready(acted.action).long(),
        ready(acted.log_prob),
        acted.value.T,
        acted.reward.T,
        update.real.T,
    )
    gains, targets = ready(update.normalized), ready(acted.value_target)
    loss = ppo(setting, policy, trials, gains, targets, setting.entropy_bonus)
    return loss, advantages(setting, trials.rewards, trials.values).T


def training(setting: Setting, policy: Policy) -> tuple[Callable, Callable]:
    """Two functions: `collect(number) -> trials`, and `learn(trials)`, all its updates."""
    random = np.random.default_rng(0)
    leaves = list(policy.params.values())
    optimizer = torch.optim.Adam(leaves, lr=setting.rate)
    num_updates = 0

    def learn(trials: Trials) -> None:
        nonlocal num_updates
        gains = advantages(setting, trials.rewards, trials.values)
        targets, own = gains + trials.values, gains[trials.real]
        gains = (gains - own.mean()) / (own.std() + 1e-8)
        gains, targets = (torch.from_numpy(x).to(DEVICE) for x in (gains, targets))
        progress = num_updates / setting.num_updates
        bonus = (1 - min(progress, 1)) * setting.entropy_bonus
        for index in range(setting.epochs * setting.parts):
            own = slice(index % setting.parts, None, setting.parts)
            part = Trials(*(None if x is None else x[:, own] for x in trials))
            optimizer.zero_grad()
            ppo(setting, policy, part, gains[:, own], targets[:, own], bonus).backward()
            nn.utils.clip_grad_norm_(leaves, setting.max_norm)
            share = min(num_updates / setting.num_updates, 1)
            rate = setting.rate + share * (setting.final_rate - setting.rate)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            num_updates += 1

    return lambda number: collect(setting, policy, random, number), learn
