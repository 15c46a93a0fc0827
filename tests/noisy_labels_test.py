"""The bilevel example, from its flags to its files, and its two derivatives at rest."""

import copy
from functools import partial
import json

from absl import flags
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import noisy_labels
import metajax as mj

TINY = [
    "--train_images=4",
    "--validation_images=2",
    "--num_inner_steps=6",
    "--num_outer_steps=2",
    "--last=2",
    "--compared_steps=3",
    "--cg_iterations=5",
]


def parsed(*arguments):
    """The flags as after a start with these arguments, and no other start before."""
    config = copy.deepcopy(noisy_labels.FLAGS)
    config(["noisy_labels", *map(str, arguments)])
    return config


def test_a_run_leaves_its_table_numbers_and_picture(data_dir, tmp_path, capsys):
    workdir = tmp_path / "run"
    config = parsed(*TINY, f"--data_dir={data_dir}", f"--workdir={workdir}")
    assert noisy_labels.run(config) == 0
    text = (workdir / "result.txt").read_text()
    assert text == capsys.readouterr().out
    result = json.loads((workdir / "result.json").read_text())
    names = [fit["name"] for fit in result["fits"]]
    assert len(names) == 7 and all(name in text for name in names)
    assert str(tmp_path) not in json.dumps(result)
    exact, nested, last, implicit = result["fits"][3:]
    assert exact["losses"] == pytest.approx(nested["losses"], rel=1e-4)
    assert exact["losses"][0] == pytest.approx(implicit["losses"][0], rel=1e-4)
    assert exact["losses"][1] < exact["losses"][0]
    assert all(fit["temporary_bytes"] > 0 for fit in (exact, nested, last, implicit))
    assert [row["inner_steps"] for row in result["derivatives"]] == [3]
    assert (workdir / "result.png").stat().st_size > 5_000
    assert noisy_labels.run(config) == 2
    assert "holds a finished run" in capsys.readouterr().err


def test_labels_are_wrong_where_they_should_be(data_dir, tmp_path):
    config = parsed("--noise=0.5", f"--data_dir={data_dir}", f"--workdir={tmp_path}")
    data, true, test = noisy_labels.load(config)
    digits, labels = np.asarray(true.targets), np.asarray(data.train.targets)
    assert np.array_equal(digits, np.repeat(np.arange(10), 200))
    assert not (labels - digits)[digits % 2 == 1].any()
    even = (labels - digits)[digits % 2 == 0]
    assert set(even) == {0, 1} and abs(even.mean() - 0.5) < 0.06
    assert np.array_equal(np.bincount(data.validation.targets), np.full(10, 10))
    assert test.inputs.shape == (10000, 196)


@partial(jax.jit, static_argnums=1)
def clusters(key, number):
    """Ten overlapping clusters in five dimensions, in which some labels are wrong."""
    keys = jax.random.split(key, 2)
    targets = jnp.arange(number) % 10
    centres = jax.random.normal(jax.random.key(7), (10, 5))
    inputs = centres[targets] + jax.random.normal(keys[0], (number, 5))
    wrong = (targets % 2 == 0) & jax.random.bernoulli(keys[1], 0.3, (number,))
    return mj.Batch(inputs, targets + wrong)


def hypergradient(adjoint, num_steps):
    train, validation = (clusters(jax.random.key(i), 60) for i in range(2))
    start = jax.jit(noisy_labels.MODEL.init)(jax.random.key(2), train.inputs)
    data = noisy_labels.Data(start, train, validation)
    loss = noisy_labels.validation_loss(adjoint, 0.3, num_steps)
    hyper = noisy_labels.initial(0.1)
    grads, _ = jax.jit(jax.grad(loss, has_aux=True))(hyper, data)
    return np.asarray(ravel_pytree(grads)[0])


def test_at_rest_the_implicit_derivative_is_the_unrolled_one():
    unroll, implicit = mj.adjoints.unroll, mj.adjoints.implicit(mj.adjoints.cg(60))
    difference, size = {}, {}
    for steps in (20, 300):
        exact = hypergradient(unroll(), steps)
        difference[steps] = np.linalg.norm(hypergradient(implicit, steps) - exact)
        size[steps] = np.linalg.norm(exact)
    assert difference[300] < 1e-4 * size[300]
    # So close only at rest, and only with all of the steps that matter.
    assert difference[20] > 1e-2 * size[20]
    truncated = hypergradient(unroll(last=2), 300)
    assert np.linalg.norm(truncated - exact) > 0.1 * size[300]


BAD_FLAGS = {
    "nowhere": ([], "workdir"),
    "too much noise": (["--noise=1.5"], "from 0 to 1"),
    "NaN rate": (["--inner_rate=nan"], "positive and finite"),
    "no regulariser": (["--l2=0"], "positive and finite"),
    "too many last steps": (["--last=9", "--num_inner_steps=8"], "at most"),
    "no steps": (["--num_outer_steps=0"], "positive integer"),
    "steps to compare": (["--compared_steps=10,few"], "integers"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_are_refused_when_parsed(name, tmp_path):
    arguments, message = BAD_FLAGS[name]
    if arguments:
        arguments = [*arguments, f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(flags.Error, match=message):
        parsed(*arguments)


def test_training_that_diverges_is_one_line_and_writes_nothing(
    data_dir, tmp_path, capsys
):
    workdir = tmp_path / "run"
    arguments = [f"--data_dir={data_dir}", f"--workdir={workdir}", "--inner_rate=1e30"]
    assert noisy_labels.run(parsed(*TINY, *arguments)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("Error: labels as they are") and errors.count("\n") == 1
    assert not workdir.exists()
