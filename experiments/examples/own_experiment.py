"""An experiment of one's own on the engine: exact resume, validation, devices, pictures.

    python -m experiments.examples.own_experiment DIR

Start it, stop it with Ctrl-C, start it again: it goes on where it was, to the same bits.
"""

from pathlib import Path
import sys

import jax.numpy as jnp
import optax

from experiments import running
import metajax as mj


def experiment() -> running.Experiment:
    tasks, model = mj.data.Sinusoid(10, 10), mj.models.mlp([40, 40], 1)
    optimizer = optax.adam(1e-3)

    def loss(outputs, targets, mask=None):  # Forgives outliers.
        return mj.losses.squared_error(jnp.tanh(outputs - targets), 0 * targets, mask)

    def after(num_steps: int):
        return mj.maml(model, loss, optax.sgd(0.01), num_steps)

    def measure(seed: int):
        # By place on the axis: what the learner costs after so many inner steps.
        costs = {(n,): mj.query_loss(after(n), loss) for n in (0, 1, 5)}
        return running.on_tasks(
            tasks, costs, axis="inner steps", seed=seed, num_tasks=100
        )

    def step(layout: running.Layout):
        costs = mj.query_loss(after(1), loss)
        meta_grad = mj.estimators.backprop(costs, **layout._asdict())
        return mj.train_step(meta_grad, optimizer)

    return running.Experiment(
        init=lambda key: mj.init_state(key, after(1), optimizer, tasks),
        optimizer=optimizer,
        step=step,
        tasks=tasks,
        num_tasks=25,
        validation=measure(running.VALIDATION),
        test=measure(running.TEST),
    )


if __name__ == "__main__":
    sys.exit(running.run(experiment, running.Options(Path(sys.argv[1]))))
