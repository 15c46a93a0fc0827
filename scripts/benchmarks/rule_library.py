"""Learning an update rule by google/learned_optimization, where it can be imported.

Its own rule of the same kind and width (`MLPLOpt`, 19 features a parameter where ours has
six and what all parameters share), its truncated PES, its loop for a single machine.
"""

from collections.abc import Callable
import itertools
from typing import Any

import haiku
import jax
from learned_optimization.learned_optimizers import mlp_lopt
from learned_optimization.optimizers import base as optimizers
from learned_optimization.outer_trainers import (
    gradient_learner,
    lopt_truncated_step,
    truncated_pes,
    truncation_schedule,
)
from learned_optimization.tasks import base as tasks
from learned_optimization.tasks.datasets import base as datasets
import numpy as np
import optax


def loop(setting, num_steps: int) -> Callable[[], Any]:
    """As the loops of `rule_loops`."""
    from scripts.benchmarks.rule_loops import images

    inputs, labels = images()
    random = np.random.default_rng(0)
    network = haiku.without_apply_rng(
        haiku.transform(
            lambda x: haiku.nets.MLP([setting.hidden, 10])(x.reshape(len(x), -1))
        )
    )

    def batch(_=None):
        places = random.integers(0, len(labels), setting.batch)
        return {"image": inputs[places], "label": labels[places]}

    class Perceptron(tasks.Task):
        """The same network, on the same images."""

        def __init__(self):
            super().__init__()
            drawn = [map(batch, itertools.count()) for _ in range(4)]
            self.datasets = datasets.Datasets(*drawn, abstract_batch=batch())

        def init(self, key):
            return network.init(key, inputs[: setting.batch])

        def loss(self, params, key, data):
            logits = network.apply(params, data["image"])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, data["label"]
            ).mean()

    rule = mlp_lopt.MLPLOpt(hidden_size=16, compute_summary=False)
    step = lopt_truncated_step.VectorizedLOptTruncatedStep(
        task_family=tasks.single_task_to_family(Perceptron()),
        learned_opt=rule,
        trunc_sched=truncation_schedule.ConstantTruncationSchedule(setting.horizon),
        num_tasks=setting.num_tasks,
        random_initial_iteration_offset=setting.horizon,
    )
    estimator = truncated_pes.TruncatedPES(
        truncated_step=step, trunc_length=setting.window
    )
    learner = gradient_learner.SingleMachineGradientLearner(
        rule, [estimator], optimizers.Adam(1e-3)
    )
    key = jax.random.PRNGKey(0)
    state = learner.init(key)

    def go():
        nonlocal key, state
        for _ in range(num_steps):
            key, step_key = jax.random.split(key)
            state, loss, _ = learner.update(state, step_key, with_metrics=False)
        return loss

    return go
