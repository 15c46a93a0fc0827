"""A bilevel problem of one's own: which features a regression should trust.

    python -m experiments.examples.own_bilevel PICTURE

Inside, ridge regression on few points, with a penalty for each of many features:

    weights = argmin of mean (inputs weights - targets)^2 + sum exp(log_penalties) weights^2

Outside, the penalties are learned by the error on other points, through the minimum
(`adjoints.implicit`): no step of the inner loop is kept. Half of the features are noise.
"""

import sys

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import optax

import metajax as mj

FEATURES, USEFUL, POINTS = 30, 10, 25


def inner_loss(weights, args):
    log_penalties, batch = args
    errors = batch.inputs @ weights - batch.targets
    return jnp.mean(errors**2) + jnp.sum(jnp.exp(log_penalties) * weights**2)


solve = mj.adjoints.implicit(mj.adjoints.cg(20))(inner_loss, optax.sgd(0.02), 1000)


def outer_loss(log_penalties, fit, held_out):
    weights = solve(jnp.zeros(FEATURES), (log_penalties, fit))
    return jnp.mean((held_out.inputs @ weights - held_out.targets) ** 2)


def draw_points(key, true, number):
    input_key, noise_key = jax.random.split(key)
    inputs = jax.random.normal(input_key, (number, FEATURES))
    noise = 0.5 * jax.random.normal(noise_key, (number,))
    return mj.Batch(inputs, inputs @ true + noise)


def main(picture, num_steps=80):
    keys = jax.random.split(jax.random.key(0), 4)
    true = jax.random.normal(keys[0], (FEATURES,)).at[USEFUL:].set(0)
    fit, held_out = (draw_points(key, true, POINTS) for key in keys[1:3])
    unseen = draw_points(keys[3], true, 2000)
    optimizer = optax.adam(0.05)

    def step(carry, _):
        log_penalties, state = carry
        error, gradient = jax.value_and_grad(outer_loss)(log_penalties, fit, held_out)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(log_penalties, updates), state), error

    start = jnp.full(FEATURES, -2.0)
    carry = start, optimizer.init(start)
    (learned, _), errors = jax.jit(lambda c: jax.lax.scan(step, c, None, num_steps))(
        carry
    )
    before, after = (float(outer_loss(x, fit, unseen)) for x in (start, learned))
    print(f"error on unseen points: one penalty {before:.2f}, learned ones {after:.2f}")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    axes[0].plot(errors)
    axes[0].set(xlabel="outer step", title="error on the points held out")
    colors = ["tab:orange" if i < USEFUL else "0.6" for i in range(FEATURES)]
    axes[1].bar(range(FEATURES), learned - start, color=colors)
    axes[1].set(xlabel="feature, the useful ones orange", title="change of log penalty")
    figure.savefig(picture, dpi=100, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1])
