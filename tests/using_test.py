"""What a run has learned is used: raw examples in, named classes out, and exported."""

import functools
import json
from pathlib import Path
import subprocess
import sys
import zipfile

import jax
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import using
from metajax.using import Learned
from tests.algorithms_test import LEARNERS, WAYS, made, predictions, start

ROOT = Path(__file__).parents[1]
NAMES = ("cat", "dog", "eel")
FEATURES = jax.ShapeDtypeStruct((5,), np.float32)


def learned(name, **changes):
    """A learner of the laws, as it is initialised, and one of its tasks."""
    meta, task = start(made(name))
    read = mj.data.array_reader((5,), np.float32)
    make = functools.cache(lambda ways: made(name))
    made_of = Learned(make, meta, mj.models.mlp([6], 3), "arrays", read, FEATURES, 3)
    return made_of.__class__(**vars(made_of) | changes), jax.device_get(task)


def named(targets):
    return [NAMES[label] for label in targets]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", LEARNERS)
def test_examples_one_at_a_time_come_to_what_all_at_once_do(name):
    run, task = learned(name)
    inputs, labels = task.support.inputs, named(task.support.targets)
    expected = softmax(np.asarray(predictions(made(name), run.meta, task)))
    adapted = run.adapt(inputs[:4], labels[:4], max_examples=8)
    assert (adapted.classes, adapted.num_examples) == (NAMES[:2], 4)
    programs = using._adapt._cache_size(), using._predict._cache_size()
    for example in range(4, 6):
        one = slice(example, example + 1)
        adapted = run.add(adapted, inputs[one], labels[one])
    assert using._adapt._cache_size() == programs[0]
    found = run.predict(adapted, task.query.inputs)
    assert found.classes == NAMES and adapted.num_examples == 6
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
    assert found.labels == named(expected.argmax(axis=1))


# One of each way to adapt; JAX has no program of a support vector machine's solver yet.
EXPORTED = ["maml", "cavia", "imaml", "maml_plus_plus", "protonet", "relation_net"]
EXPORTED += ["r2d2", "in_context", "hypernetwork", "baseline"]


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_does_what_the_live_learner_does(name, tmp_path, monkeypatch):
    # Lowering is quicker for one; the run below has all.
    monkeypatch.setattr(mj.exporting, "PLATFORMS", ("cpu",))
    run, task = learned(name, temperature=2.0)
    mj.export(run, tmp_path / "run.zip", shots=2)
    with zipfile.ZipFile(tmp_path / "run.zip") as file:
        adapt, predict = (
            jax.export.deserialize(bytearray(file.read(each)))
            for each in ("adapt", "predict")
        )
    labels = np.asarray(task.support.targets, np.int32)
    outputs = predict.call(adapt.call(task.support.inputs, labels), task.query.inputs)
    live = run.adapt(task.support.inputs, named(labels), max_examples=6)
    found = run.predict(live, task.query.inputs)
    np.testing.assert_allclose(outputs, found.probabilities, atol=2e-5)
    # A label of -1 is padding, and a class without an example is never predicted.
    fewer = adapt.call(task.support.inputs, np.where(labels == 2, -1, labels))
    outputs = predict.call(fewer, task.query.inputs)
    live = run.adapt(task.support.inputs[:4], named(labels[:4]), max_examples=6)
    found = run.predict(live, task.query.inputs)
    np.testing.assert_allclose(outputs[:, :2], found.probabilities, atol=2e-5)
    assert outputs.shape == (6, 3) and not outputs[:, 2].any()


def nearest(**changes):
    """A learner of any number of classes in the space of the numbers themselves."""

    def apply(params, inputs):
        return inputs.inputs if isinstance(inputs, mj.Masked) else inputs

    model = mj.Model(lambda key, inputs: {}, apply)
    make = functools.cache(functools.partial(mj.protonet, model))
    read = mj.data.array_reader((2,), np.float32)
    example = jax.ShapeDtypeStruct((2,), np.float32)
    return Learned(make, {}, model, "arrays", read, example, None, **changes)


def test_probabilities_are_those_of_distances_and_temperature():
    points = np.array([[0.0, 0.0], [2.0, 0.0]])
    for temperature in (None, 4.0):
        run = nearest(temperature=temperature)
        found = run.predict(run.adapt(points, [7, 3]), np.array([[0.5, 0.0]]))
        distances = np.array([0.25, 2.25]) / (temperature or 1)
        np.testing.assert_allclose(
            found.probabilities[0], softmax(-distances[None])[0], rtol=1e-5
        )
        assert found.classes == (7, 3) and found.labels == [7]


def test_new_classes_come_after_the_others_and_room_doubles():
    run = nearest()
    task = run.adapt(np.eye(2), ["a", "b"])
    assert task.support.mask is None and task.ways == 2
    task = run.add(task, [[5.0, 5.0], [0.0, 1.1]], ["c", "b"])
    assert task.classes == ("a", "b", "c") and task.ways == 4
    assert len(task.support.targets) == 4 and task.num_examples == 4
    assert run.predict(task, [[5.0, 4.0], [0, 1]]).labels == ["c", "b"]
    room = run.adapt(np.eye(2), ["a", "b"], max_examples=9, max_classes=3)
    programs = using._adapt._cache_size()
    room = run.add(room, [[5.0, 5.0]], ["c"])
    assert using._adapt._cache_size() == programs and room.ways == 3


def test_many_queries_are_predicted_in_parts_of_few_sizes():
    run = nearest()
    task = run.adapt(np.eye(2), ["a", "b"])
    queries = np.random.default_rng(0).normal(size=(600, 2))
    found = run.predict(task, queries)
    assert found.labels == np.where(queries[:, 0] > queries[:, 1], "a", "b").tolist()


def test_regression_gives_values():
    model = mj.models.mlp([4], 1)
    learner = mj.maml(model, mj.losses.squared_error, optax.sgd(0.1), 2)
    example = jax.ShapeDtypeStruct((1,), np.float32)
    read = mj.data.array_reader((1,), np.float32)
    meta = learner.init(jax.random.key(0), np.zeros((1, 1), np.float32))
    run = Learned(
        lambda ways: learner, meta, model, "arrays", read, example, 1, classifies=False
    )
    inputs, targets = np.arange(3.0)[:, None], np.ones((3, 1))
    found = run.predict(run.adapt(inputs, targets, max_examples=5), inputs)
    support = mj.Batch(inputs.astype(np.float32), targets.astype(np.float32))
    adapted = learner.adapt(None, meta, support)
    expected = learner.predict(meta, adapted, support.inputs)
    np.testing.assert_allclose(found.outputs, expected, atol=1e-5)
    assert found.probabilities is None and found.classes == ()
    with pytest.raises(ValueError, match=r"Targets must be \[examples, 1\]"):
        run.adapt(inputs, [1.0, 2.0, 3.0])


def test_labels_that_keep_their_meaning_are_those_of_training():
    run = nearest(classes=("0", "1"), keeps_labels=True)
    task = run.adapt(np.eye(2), [1, 0])
    assert task.classes == ("0", "1")
    assert run.predict(task, [[1.0, 0.0]]).labels == ["1"]
    with pytest.raises(ValueError, match="Unknown class '7'.*0, 1"):
        run.adapt(np.eye(2), [0, 7])


@pytest.mark.parametrize(
    "inputs, labels, more, message",
    [
        (np.eye(2), ["a", "a"], {}, "All examples are of class 'a'"),
        (np.eye(2), ["a"], {}, "one target an example: got 2 and 1|All examples"),
        (np.eye(2), ["a", 1], {}, "words, but for one"),
        (np.eye(2), [[0, 1]], {}, "as a list of one an example"),
        (np.eye(3), [0, 1, 2], {}, r"must be \[examples, 2\]"),
        (np.full((2, 2), np.nan), [0, 1], {}, "NaN or infinite"),
        (np.eye(2), [0, 1], {"max_examples": 1}, "max_examples is 1"),
        (np.eye(2), [0, 1], {"max_classes": 1}, "2 classes, but max_classes is 1"),
        ([], [], {}, "no examples"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(inputs, labels, more, message):
    with pytest.raises(ValueError, match=message):
        nearest().adapt(inputs, labels, **more)


def test_a_class_too_many_and_a_divergence_are_said():
    run, task = learned("maml")
    with pytest.raises(
        ValueError, match="4 classes, but this learner was trained for 3"
    ):
        run.adapt(np.zeros((4, 5)), list("abcd"))
    adapted = run.adapt(task.support.inputs, named(task.support.targets))
    broken = jax.tree.map(lambda leaf: leaf * np.nan, adapted.adapted)
    with pytest.raises(ValueError, match="not finite: adaptation .* has diverged"):
        run.predict(adapted._replace(adapted=broken), task.query.inputs)
    with pytest.raises(ValueError, match="trained for 3 ways: .* not 4"):
        mj.export(run, "nowhere.zip", ways=4, shots=1)
    with pytest.raises(ValueError, match="say how many ways"):
        mj.export(nearest(), "nowhere.zip", shots=1)
    with pytest.raises(ValueError, match="Labels must be all"):
        run.add(adapted, task.query.inputs[:1], [3])


def test_an_export_runs_where_there_is_no_metajax(tmp_path):
    run, _ = learned("protonet")
    mj.export(run, tmp_path / "run.zip", shots=1)
    with zipfile.ZipFile(tmp_path / "run.zip") as file:
        card = json.loads(file.read("card.json"))
        program = jax.export.deserialize(bytearray(file.read("predict")))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert card["examples"] == WAYS and not card["calibrated"]
    hide = "import sys, runpy; sys.modules['metajax'] = None; "
    script = ROOT / "experiments" / "examples" / "run_export.py"
    command = hide + f"sys.argv = ['', {str(tmp_path / 'run.zip')!r}]; "
    command += f"runpy.run_path({str(script)!r})"
    shown = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    numbers = np.array(shown.stdout.replace("[", "").replace("]", "").split(), float)
    numbers = numbers.reshape(3, WAYS)
    np.testing.assert_allclose(numbers.sum(axis=1), 1, atol=2e-3)


def test_a_directory_that_holds_nothing_to_use_is_explained(tmp_path):
    def refused(message):
        with pytest.raises(ValueError, match=message):
            mj.load(tmp_path)

    refused("no finished run")
    (tmp_path / "result.json").write_text("{}")
    refused("another version")
    (tmp_path / "card.json").write_text("{")
    refused("cannot be read")
    (tmp_path / "card.json").write_text('{"made_by": "no.such.module"}')
    refused("made by no.such.module, which cannot be imported")
    (tmp_path / "card.json").unlink()
    (tmp_path / "seed_4").mkdir()
    (tmp_path / "seed_4" / "card.json").write_text("{}")
    refused("several seeds: name one, .*seed_4")
