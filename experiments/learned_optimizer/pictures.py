"""Pictures of a learned rule: where it leads, and how it moves a parameter."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.running import Measurement
from experiments.running.pictures import plt, save
from metajax.base import MetaParams, Rule


def losses(found: Measurement, kinds: Sequence[str], path: Path) -> None:
    """Losses along the trainings, with the middle half of the tasks as bands."""
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(5 * len(kinds), 3.8), squeeze=False
    )
    colors = ["tab:orange", "tab:blue", "0.5", "tab:green", "tab:purple", "tab:red"]
    for axis, kind in zip(axes[0], kinds):
        for name, color in zip(("rule", *found.more), colors):
            values = found.values[f"{name}_{kind}"]
            low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
            axis.plot(found.places, middle, color=color, label=name)
            axis.fill_between(found.places, low, high, color=color, alpha=0.2)
        axis.set(xlabel="inner steps", yscale="log", title=f"{kind} loss, unseen tasks")
        axis.legend()
    save(figure, path)


def moves(rule: Rule, meta: MetaParams, path: Path) -> None:
    """How a rule moves a parameter: after steady gradients, and as time goes on.

    Left, a parameter that had gradients of 1 for 20 steps gets another one; right, by how
    much gradients of 1, and of 1 and -1 in turn, move it. Beside them what Adam does, at
    the rate at which its moves on the right are as large on average.
    """
    gradients = np.linspace(-3, 3, 61, dtype=np.float32)
    steps, before = 200, 20
    steady = np.ones(steps, np.float32)
    turning = np.where(np.arange(steps) % 2, -1, 1).astype(np.float32)

    def along(optimizer, each):
        """The moves of a layer of numbers, by its gradients `[steps, numbers]`."""

        def one(carry, grads):
            params, state = carry
            move, state = optimizer.update(grads, state, params)
            return (params + move, state), move

        params = jnp.ones(each.shape[1])
        return jax.lax.scan(one, (params, optimizer.init(params)), each)[1]

    # In a layer of many, whose mean square hardly depends on one of them.
    layer = np.ones((before, 64), np.float32)

    def answers(optimizer):
        def one(gradient):
            last = jnp.ones((1, 64)).at[0, 0].set(gradient)
            return along(optimizer, jnp.concatenate([layer, last]))[-1, 0]

        sides = np.stack([steady, turning], axis=1)
        return jax.vmap(one)(gradients), along(optimizer, jnp.asarray(sides))

    learned = jax.jit(lambda meta: answers(rule.optimizer(meta)))(meta)
    adam = jax.jit(lambda: answers(optax.adam(1.0)))()
    rate = np.abs(learned[1]).mean() / np.abs(adam[1]).mean()
    figure, (answer, time) = plt.subplots(1, 2, figsize=(10, 3.8))
    for (moved, course), scale, style in (
        (learned, 1.0, {"color": "tab:orange"}),
        (adam, rate, {"color": "tab:blue", "linestyle": "--"}),
    ):
        name = "rule" if scale == 1.0 else f"adam, rate {rate:.2g}"
        answer.plot(gradients, scale * np.asarray(moved), label=name, **style)
        for column, of in enumerate(("steady", "turning")):
            values = np.abs(scale * np.asarray(course[:, column]))
            width = 2 - column
            time.plot(values, label=f"{name}, {of}", linewidth=width, **style)
    answer.set(xlabel="gradient after 20 of 1", title="move")
    time.set(
        xlabel="inner steps", yscale="log", title="size of moves by gradients of 1"
    )
    answer.legend(fontsize=8)
    time.legend(fontsize=8, loc="center right")
    save(figure, path)
