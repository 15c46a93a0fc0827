"""Errors of approximate meta-gradients, where they are known by hand."""

from functools import cache
import json
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.adjoints import dense, implicit, mixed_mode, unroll
from metajax.hypergrad import HypergradCheck, check_hypergrad, hypergrad_table

ROOT = Path(__file__).parents[1]
CURVATURE = {"a": np.array([0.5, 1.0, 1.8], np.float32), "b": np.float32(0.2)}
META = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.float32(3.0)}
RATE, STEPS = 0.5, 4


def quadratic(params, target):
    """The sum of curvature / 2 * (params - target)^2."""
    terms = jax.tree.map(
        lambda h, x, t: h / 2 * (x - t) ** 2, CURVATURE, params, target
    )
    return sum(jnp.sum(term) for term in jax.tree.leaves(terms))


def distance(params, target):
    return optax.tree.norm(optax.tree.sub(params, target), squared=True) / 2


@cache
def tasks(num_tasks):
    """A task is where its inner loss, and where its outer loss, are least."""
    keys = jax.random.split(jax.random.key(3), 2)
    stacked = jax.tree.map(lambda x: jnp.zeros((num_tasks, *x.shape)), META)
    return mj.Task(*(optax.tree.random_like(key, stacked) for key in keys))


def estimator(adjoint, loss, num_steps=STEPS):
    """The distance from where the inner loop of a quadratic ends."""

    def objective(key, meta, task):
        del key
        solve = adjoint(loss, optax.sgd(RATE), num_steps)
        value = distance(solve(meta, (meta, task.support)), task.query)
        return value, {"loss": value}

    return mj.estimators.backprop(objective)


def inner_loss(params, meta_and_target):
    return quadratic(params, meta_and_target[1])


def proximal_loss(params, meta_and_target):
    meta, target = meta_and_target
    return quadratic(params, target) + distance(params, meta) / 2


def check(estimators, drawn=None, **options):
    drawn = tasks(3) if drawn is None else drawn
    options = {"key": jax.random.key(0), "rounds": 1} | options
    return check_hypergrad(estimators, META, drawn, **options)


def by_hand(last):
    """The gradient that goes through the last steps alone, as a vector in float64."""
    total = 0
    for i in range(3):
        support, query = (
            np.append(batch["a"][i], batch["b"][i]).astype(np.float64)
            for batch in tasks(3)
        )
        meta = np.append(META["a"], META["b"]).astype(np.float64)
        shrinks = 1 - RATE * np.append(CURVATURE["a"], CURVATURE["b"])
        adapted = support + shrinks**STEPS * (meta - support)
        total = total + shrinks**last * (adapted - query) / 3
    return total


@pytest.mark.parametrize("last", range(STEPS + 1))
def test_truncation_errs_as_much_as_the_mathematics_says(last):
    found = check(
        {
            "exact": estimator(unroll(), inner_loss),
            "truncated": estimator(unroll(last=last), inner_loss),
        }
    )
    exact, truncated = by_hand(STEPS), by_hand(last)
    norm = np.linalg.norm(exact)
    cosine = exact @ truncated / (norm * np.linalg.norm(truncated))
    assert found["exact"].cosine == pytest.approx(1, abs=1e-12)
    assert found["exact"].relative_error == 0
    assert found["truncated"].cosine == pytest.approx(cosine, abs=1e-6)
    error = np.linalg.norm(truncated - exact) / norm
    assert found["truncated"].relative_error == pytest.approx(error, rel=1e-5)
    # The best rescaling, by least squares.
    scale = exact @ truncated / (truncated @ truncated)
    rescaled = np.linalg.norm(max(scale, 0) * truncated - exact) / norm
    assert found["truncated"].rescaled_error == pytest.approx(rescaled, abs=1e-3)


def test_mixed_mode_is_exact_to_rounding():
    remats = {r: estimator(mixed_mode(remat=r), inner_loss) for r in ("step", "nested")}
    found = check({"exact": estimator(unroll(), inner_loss), **remats})
    for remat in remats:
        assert found[remat].relative_error < 1e-6
        assert found[remat].rescaled_error < 1e-6


def test_the_implicit_gradient_is_exact_at_rest_and_wrong_before():
    def pair(num_steps):
        adjoints = {"exact": unroll(), "implicit": implicit(dense())}
        return {n: estimator(a, proximal_loss, num_steps) for n, a in adjoints.items()}

    rest, before = check(pair(60))["implicit"], check(pair(1))["implicit"]
    assert rest.relative_error < 1e-5
    assert rest.cosine == pytest.approx(1, abs=1e-9)
    assert rest.metrics["inner_gradient"] < 1e-5
    assert rest.metrics["solver_residual"] < 1e-5
    assert before.relative_error > 0.1
    assert before.metrics["inner_gradient"] > 0.1
    assert {"loss", "inner_gradient", "solver_residual"} == before.metrics.keys()


def objective(key, meta, task):
    """A quadratic, whose smoothed gradient is the gradient."""
    del key
    value = quadratic(meta, task.support)
    return value, {"loss": value}


def test_evolution_is_unbiased():
    """The mean of estimates lies within 4 of its standard errors of the gradient."""
    one_pair = mj.estimators.evolution(objective, num_pairs=1, std=0.1)
    exact = jax.jit(
        jax.grad(lambda meta: jnp.mean(jax.vmap(quadratic, (None, 0))(meta, targets)))
    )
    targets = tasks(3).support
    keys = jax.random.split(jax.random.key(5), 4000)
    many = jax.jit(jax.vmap(one_pair, (0, None, None)))
    _, samples = many(keys, META, tasks(3))
    for each, expected in zip(jax.tree.leaves(samples), jax.tree.leaves(exact(META))):
        standard_error = np.std(each, 0, ddof=1) / np.sqrt(len(keys))
        assert (np.abs(np.mean(each, 0) - expected) < 4 * standard_error).all()


def test_the_error_of_evolution_falls_with_its_pairs():
    """Of a quadratic in d dimensions it is sqrt((d + 1) / pairs), on average."""
    many = {
        n: mj.estimators.evolution(objective, num_pairs=n, std=0.1) for n in (9, 900)
    }
    found = check({"exact": mj.estimators.backprop(objective), **many})
    for number in many:
        assert 0.3 < found[number].relative_error / np.sqrt(5 / number) < 3


def constant(gradient, **metrics):
    return lambda key, meta, tasks: ((jnp.float32(0), metrics), gradient)


def test_what_cannot_be_compared_is_refused():
    good = constant(META)
    with pytest.raises(ValueError, match="at least one estimator"):
        check({})
    with pytest.raises(ValueError, match="one round"):
        check({"exact": good}, rounds=0)
    with pytest.raises(ValueError, match="'exact' has .*, 'other' has"):
        check({"exact": good, "other": constant({"a": META["a"]})})
    with pytest.raises(ValueError, match="structure and shapes"):
        check({"exact": good, "other": constant(META | {"b": jnp.zeros(1)})})
    for factor, norm in ((0, "0.0"), (np.inf, "inf"), (np.nan, "nan")):
        with pytest.raises(ValueError, match=f"'exact' has a gradient of norm {norm}"):
            check({"exact": constant(optax.tree.scale(factor, META))})
    with pytest.raises(ValueError, match="no checks"):
        hypergrad_table({})


def test_directions_without_a_size_and_estimates_that_are_not_finite():
    scaled = {c: constant(optax.tree.scale(c, META)) for c in (2.0, -1.0, 0.0, np.nan)}
    found = check({"exact": constant(META), **scaled})
    assert found[2.0][:2] == pytest.approx((1, 1))
    assert found[2.0].rescaled_error == pytest.approx(0, abs=1e-7)
    assert found[-1.0][:2] == pytest.approx((-1, 2))
    assert found[-1.0].rescaled_error == 1
    assert np.isnan(found[0.0].cosine) and found[0.0].relative_error == 1
    assert np.isnan(found[np.nan][:2]).all()


def test_each_estimator_is_compiled_once_and_temporaries_are_its_own():
    traced = []

    def counted(key, meta, tasks):
        traced.append(1)
        return estimator(unroll(), inner_loss)(key, meta, tasks)

    def large(key, meta, tasks):
        noise = jnp.sort(jax.random.normal(key, (1 << 16,)))
        values, gradient = counted(key, meta, tasks)
        return values, jax.tree.map(lambda g: g + noise[0], gradient)

    found = check({"exact": counted, "large": large}, rounds=3)
    assert len(traced) == 2
    assert found["large"].temporaries >= found["exact"].temporaries + (1 << 18)
    assert all(check.seconds > 0 for check in found.values())


def test_devices_share_the_tasks():
    mesh = mj.estimators.task_mesh(4)
    shared = mj.estimators.backprop(objective, mesh=mesh)
    found = check({"exact": mj.estimators.backprop(objective), "shared": shared})
    assert found["shared"].relative_error < 1e-6


def test_the_table_lines_up_and_shows_what_the_reference_does_not_report():
    exact = HypergradCheck(1.0, 0.0, 2**21, 0.05, {"loss": 1.0})
    rest = HypergradCheck(0.8, 0.75, 2**20, 0.02, {"loss": 1.0, "inner_gradient": 0.1})
    header, *lines = hypergrad_table({"exact": exact, "at rest": rest}).splitlines()
    assert header.split()[-1] == "inner_gradient" and "loss" not in header
    assert lines[0].split() == "exact 1.0000 0 0 50 1.00 2.0 1.00 -".split()
    assert (
        lines[1].split()[2:]
        == "0.8000 7.5e-01 6.0e-01 20 0.40 1.0 0.50 1.0e-01".split()
    )
    assert len({len(line) for line in [header, *lines]}) == 1


# With little to draw and to compile, and without a look at the machine.
SMALL = """
from absl import app
import numpy as np
from scripts import check_hypergrad as script
mj, images = script.mj, np.random.default_rng(0).integers(0, 255, (8, 4, 4, 1))
data = mj.data.from_arrays(images.astype(np.uint8), np.arange(8) // 2)
mj.data.glyphs = lambda split: data
mj.models.conv4 = lambda ways, width: mj.models.mlp([width], ways)
script.machine.describe = lambda wanted: {"platform": wanted}
script.machine.lines = str
app.run(script.main)
"""
FLAGS = (
    "--data=glyphs --platform=cpu --ways=2 --width=4 --num_tasks=1 --steps=2 "
    "--methods=mixed_mode,cg_1 --train_steps=0 --rounds=1"
)


def test_the_script_leaves_a_table_rows_and_a_picture(tmp_path):
    arguments = [f"--out={tmp_path}", *FLAGS.split()]
    ended = subprocess.run(
        [sys.executable, "-c", SMALL, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "hypergrad.json").read_text())["rows"]
    assert [(row["problem"], row["num_steps"], row["method"]) for row in rows] == [
        ("support loss", 2, "unroll"),
        ("support loss", 2, "mixed_mode"),
        ("proximal loss", 2, "unroll"),
        ("proximal loss", 2, "cg_1"),
    ]
    exact, mixed, _, implicit_row = rows
    assert exact["relative_error"] == 0 and mixed["relative_error"] < 1e-5
    assert implicit_row["relative_error"] > 0.01
    assert implicit_row["metrics"].keys() > {"inner_gradient", "solver_residual"}
    text = (tmp_path / "hypergrad.txt").read_text()
    assert "proximal loss, inner steps: 2" in text and str(tmp_path) not in text
    assert (tmp_path / "hypergrad.png").read_bytes().startswith(b"\x89PNG")


def test_the_script_knows_its_methods(tmp_path):
    arguments = [f"--out={tmp_path}", *FLAGS.replace("cg_1", "cg_3").split()]
    ended = subprocess.run(
        [sys.executable, "-c", SMALL, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "--methods=cg_3: choose among unroll, first_order, " in ended.stderr
