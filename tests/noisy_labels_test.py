"""The bilevel example, from its flags to its files, and its two derivatives at rest."""

from functools import partial

from absl import flags
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.noisy_labels import door, problem
from experiments.running import engine, pictures
import metajax as mj
from metajax import logs

TINY = [
    "--train_images=4",
    "--validation_images=2",
    "--num_inner_steps=6",
    "--num_steps=2",
    "--last=2",
    "--compared_steps=3",
    "--cg_iterations=5",
]


@pytest.fixture
def run(parse, data_dir, capsys):
    """Runs the study: arguments -> exit code, output, errors."""

    def run(*arguments):
        parse(door.FLAGS, ["noisy_labels", f"--data_dir={data_dir}", *arguments])
        code = door.run()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_study_leaves_its_table_and_picture(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "curves", lambda *_: None)  # Of each run.
    code, out, errors = run(*TINY, f"--workdir={tmp_path}")
    assert code == 0, errors
    text = (tmp_path / "result.txt").read_text()
    assert text in out
    rows = {line[:26].strip(): line[26:].split() for line in text.splitlines()[5:12]}
    learned = list(rows)[3:]
    assert learned[0] == "unroll()" and learned[3] == "implicit(cg(5))"
    assert rows["unroll()"][:3] == rows['unroll(remat="nested")'][:3]
    losses = {}
    for name in ("unroll", "nested", "last", "implicit"):
        log = logs.read_metrics(tmp_path / f"adjoint-{name}" / "metrics.jsonl")
        losses[name] = [line["train/loss"] for line in log]
    assert losses["unroll"] == pytest.approx(losses["nested"], rel=1e-4)
    assert losses["unroll"][0] == pytest.approx(losses["implicit"][0], rel=1e-4)
    assert losses["unroll"][1] < losses["unroll"][0]
    assert text.splitlines()[-1].split()[0] == "3"  # Inner steps.
    assert (tmp_path / "result.png").stat().st_size > 5_000


def test_labels_are_wrong_where_they_should_be(data_dir):
    data, true, test = problem.load(
        0, train_images=200, validation_images=10, noise=0.5, data_dir=data_dir
    )
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
    start = jax.jit(problem.MODEL.init)(jax.random.key(2), train.inputs)
    data = problem.Data(start, train, validation)
    loss = problem.validation_loss(adjoint, 0.3, num_steps)
    hyper = problem.initial(0.1)
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
    "seeds that are one": (["--num_seeds=2"], "must be 1"),
    "steps to compare": (["--compared_steps=10,few"], "integers"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_are_refused_when_parsed(parse, name, tmp_path):
    arguments, message = BAD_FLAGS[name]
    if arguments:
        arguments = [*arguments, f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(flags.Error, match=message):
        parse(door.FLAGS, ["noisy_labels", *arguments])


def test_training_that_diverges_is_one_line(run, tmp_path):
    code, _, errors = run(*TINY, f"--workdir={tmp_path}", "--inner_rate=1e30")
    assert code == engine.NON_FINITE
    assert "a lower --inner_rate" in errors and errors.count("\n") == 1
