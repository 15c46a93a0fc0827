"""Gradients beside the loss itself: smooth ones, ripples, and what is no gradient."""

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import check_slope


def bowl(meta):
    return 0.5 * jnp.sum(meta["x"] ** 2) + 2 * meta["y"]


META = {"x": jnp.array([3.0, 4.0]), "y": jnp.float32(1.0)}


def test_a_smooth_loss_is_as_its_gradient_says():
    check = check_slope(bowl, META, jax.grad(bowl)(META))
    np.testing.assert_allclose(check.slope, 29**0.5, rtol=1e-6)
    np.testing.assert_allclose([*check.agreement.values()], 1, rtol=1e-3)
    assert check.reach == 1.0


def test_ripples_are_found_and_warned_of(monkeypatch):
    told = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *more: told.append(text % more)
    )

    def rippled(meta):
        return bowl(meta) + 0.01 * jnp.sin(1e4 * meta["y"])

    check = check_slope(rippled, META, jax.grad(rippled)(META))
    assert check.reach == 0 and len(told) == 1 and "chaotic" in told[0]
    # A long way off the ripples are nothing, and the slope along x and y is found.
    direction = jax.grad(rippled)(META)
    foretold = sum(
        jnp.vdot(a, b)
        for a, b in zip(*map(jax.tree.leaves, (jax.grad(bowl)(META), direction)))
    )
    np.testing.assert_allclose(check.found[1.0], foretold / check.slope, atol=0.02)


def test_the_reach_ends_where_the_loss_bends():
    def bent(x):
        return jnp.where(jnp.abs(x) < 0.5, x, 0.5 * jnp.sign(x))

    check = check_slope(bent, jnp.float32(0), jnp.float32(1), (0.1, 0.4, 2.0, 5.0))
    assert check.reach == 0.4
    np.testing.assert_allclose(check.agreement[2.0], 0.25)


@pytest.mark.parametrize(
    "gradient, distances",
    [(0.0, (0.1,)), (np.nan, (0.1,)), (np.inf, (0.1,)), (1.0, ()), (1.0, (0.1, 0.0))],
)
def test_what_is_no_slope_is_refused(gradient, distances):
    with pytest.raises(ValueError, match="needs a finite gradient"):
        check_slope(lambda x: x, jnp.float32(0), jnp.float32(gradient), distances)
