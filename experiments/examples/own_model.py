"""A model of one's own: as an NNX module, and as two plain functions.

    python -m experiments.examples.own_model

Both are the same network with sines for activations; MAML trains either on sinusoids.
"""

from flax import nnx
import jax
import jax.numpy as jnp
import optax

import metajax as mj


class Waves(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(1, 40, rngs=rngs)
        self.second = nnx.Linear(40, 1, rngs=rngs)

    def __call__(self, inputs):
        return self.second(jnp.sin(self.first(inputs)))


def init(key, inputs):
    first, second = jax.random.split(key)
    return {
        "first": jax.random.normal(first, (inputs.shape[-1], 40)),
        "bias": jnp.zeros(40),
        "second": jax.random.normal(second, (40, 1)) / 40**0.5,
    }


def apply(params, inputs):
    if isinstance(inputs, mj.Masked):  # Each example is treated alone.
        inputs = inputs.inputs
    return jnp.sin(inputs @ params["first"] + params["bias"][None]) @ params["second"]


def main(num_steps=3000, num_tasks=600):
    sampler, loss = mj.data.Sinusoid(10, 10), mj.losses.squared_error
    print("model            parameters  squared error after 0, 1, 5 inner steps")
    for name, model in {
        "NNX module": mj.models.from_nnx(lambda rngs: Waves(rngs)),
        "plain functions": mj.Model(init, apply),
        "mlp of metajax": mj.models.mlp([40, 40], 1),
    }.items():
        learner = mj.maml(model, loss, optax.sgd(0.01), num_steps=1)
        optimizer = optax.adam(1e-3)
        meta_grad = mj.estimators.backprop(mj.query_loss(learner, loss))
        step = mj.train_step(meta_grad, optimizer)
        state = mj.init_state(jax.random.key(0), learner, optimizer, sampler)
        state, _ = mj.train(step, state, sampler, num_tasks=25, num_steps=num_steps)
        errors = []
        for steps in (0, 1, 5):
            objective = mj.query_loss(
                mj.maml(model, loss, optax.sgd(0.01), steps), loss
            )
            key = jax.random.key(1)
            found = mj.evaluate(
                objective, state.meta, sampler, key=key, num_tasks=num_tasks
            )
            errors.append(f"{found.values['loss'].mean():.3f}")
        print(f"{name:16s} {mj.trees.size(state.meta):10d}  {', '.join(errors)}")


if __name__ == "__main__":
    main()
