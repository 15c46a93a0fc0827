"""What training with given hyperparameters comes to, and how right derivatives are."""

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import optax

from experiments.noisy_labels.problem import (
    MODEL,
    Data,
    initial,
    training_loss,
    validation_loss,
)
import metajax as mj


def trainer(rate: float, num_steps: int):
    """Training with given hyperparameters, compiled.

    Returns:
      `(hyper, data, test) -> (validation loss, what is left of the inner gradient, test
      losses, whether each test image is right)`.
    """
    train = validation_loss(mj.adjoints.unroll(last=0), rate, num_steps)

    def fit(hyper, data: Data, test: mj.Batch):
        loss, fitted = train(hyper, data)
        gradient = jax.grad(training_loss)
        left, before = (gradient(p, (hyper, data.train)) for p in (fitted, data.start))
        outputs = MODEL.apply(fitted, test.inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, test.targets)
        right = jnp.argmax(outputs, axis=1) == test.targets
        return loss, optax.tree.norm(left) / optax.tree.norm(before), losses, right

    return jax.jit(fit)


def judge(train, hyper, data: Data, test: mj.Batch) -> dict:
    """One line of the table."""
    loss, left, _, right = train(hyper, data, test)
    accuracy, interval = mj.mean_and_interval(np.asarray(right, np.float32))
    return {
        "validation_loss": float(loss),
        "accuracy": float(accuracy),
        "interval": float(interval),
        "inner_gradient": float(left),
        "l2": float(jnp.exp(hyper["log_l2"])),
        "weights": (10 * jax.nn.softmax(hyper["log_weights"])).tolist(),
    }


def temporary_bytes(adjoint, rate: float, num_steps: int, hyper, data: Data) -> int:
    """What a hypergradient needs beside its arguments and result."""
    gradient = jax.grad(validation_loss(adjoint, rate, num_steps), has_aux=True)
    compiled = jax.jit(gradient).lower(hyper, data).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def compare(
    data: Data,
    steps: tuple[int, ...],
    *,
    rate: float,
    l2: float,
    last: int,
    iterations: int,
) -> list[dict]:
    """The derivatives after few and many inner steps, held against that at rest.

    The latter is the implicit one after ten times the most steps, with up to 1000
    iterations of conjugate gradients.

    Args:
      data: the problem.
      steps: numbers of inner steps, ascending.
      rate: of the inner descent.
      l2: the regulariser.
      last: steps that the truncated derivative goes back.
      iterations: the most that the implicit one takes.
    """
    hyper = initial(l2)

    def derivative(adjoint, num_steps):
        loss = validation_loss(adjoint, rate, num_steps)
        grads, _ = jax.jit(jax.grad(loss, has_aux=True))(hyper, data)
        return np.asarray(ravel_pytree(grads)[0], np.float64)

    def error(a, b):
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    precise = mj.adjoints.implicit(mj.adjoints.cg(1000))
    at_rest = derivative(precise, 10 * steps[-1])
    rows = []
    for number in steps:
        unrolled = derivative(mj.adjoints.unroll(), number)
        truncated = derivative(mj.adjoints.unroll(min(last, number)), number)
        solver = mj.adjoints.cg(iterations)
        implicit = derivative(mj.adjoints.implicit(solver), number)
        norms = np.linalg.norm(implicit) * np.linalg.norm(unrolled)
        row = {
            "inner_steps": number,
            "unroll": error(unrolled, at_rest),
            "last": error(truncated, at_rest),
            "implicit": error(implicit, at_rest),
            "implicit_to_unroll": error(implicit, unrolled),
            "cosine": float(implicit @ unrolled / norms),
        }
        rows.append(row)
    return rows
