"""Finished runs are loaded, and used on folders, files and arrays of one's own."""

import json
from pathlib import Path
import re
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from experiments import export, predict, running
import metajax as mj

ROOT = Path(__file__).parents[1]
SHORT = [
    "--num_steps=2",
    "--eval_every_steps=2",
    "--log_every_steps=2",
    "--num_tasks=2",
]
SHORT += ["--num_validation_tasks=3", "--num_test_tasks=4", "--platform=cpu"]
TASKS = ["--ways=3", "--shots=1", "--queries=2", "--class_split=0.34,0.33,0.33"]
STEPS = ["--inner_steps=1", "--eval_inner_steps=0,2", "--select_inner_steps=2"]
WORDS = "zero one two three four five six seven eight nine".split()


def write_classes(root, pixels, said):
    """Nine classes of four images, in folders, and of four texts, in a CSV file.

    `pixels` and `said` make one of a class, from its number and theirs.
    """
    lines = ["text,label"]
    for label in range(9):
        folder = root / "images" / f"kind{label}"
        folder.mkdir(parents=True)
        for index in range(4):
            image = np.asarray(pixels(label, index), np.uint8)
            Image.fromarray(image).save(folder / f"{index}.png")
            lines.append(f"{said(label, index)},intent{label}")
    (root / "texts.csv").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Data of one's own: nine classes of images, of texts, and of vectors."""
    root, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    patterns = random.integers(0, 256, (9, 12, 12, 3))

    def pixels(label, index):
        noisy = patterns[label] + random.integers(-9, 9, patterns[label].shape)
        return np.clip(noisy, 0, 255)

    def said(label, index):
        return " ".join([WORDS[label], *random.choice(WORDS, 2)])

    write_classes(root, pixels, said)
    labels = np.repeat(np.arange(9), 4)
    inputs = random.normal(size=(9, 6))[labels] + 0.1 * random.normal(size=(36, 6))
    np.savez(root / "arrays.npz", inputs=inputs.astype(np.float32), labels=labels)
    return root


RUNS = {
    "images": [
        *["--data=folder", "--image_size=8", "--learner=protonet", "--hidden=6"],
        *["--calibrate", "--num_seeds=2"],
    ],
    "texts": ["--data=texts", "--model=bag", "--vocabulary=64", "--encoding=ngrams"],
    "arrays": ["--data=arrays", "--learner=maml_plus_plus", "--hidden=5"],
}
PATHS = {"images": "images", "texts": "texts.csv", "arrays": "arrays.npz"}


@pytest.fixture
def finished(run, own, tmp_path_factory):
    """The directory of a run on data of one's own, which is made but once."""

    def find(kind):
        workdir = tmp_path_factory.getbasetemp() / f"used-{kind}"
        if not workdir.exists():
            steps = STEPS if kind != "images" else []
            path = f"--data_path={own / PATHS[kind]}"
            asked = [*RUNS[kind], path, *TASKS, *steps, *SHORT]
            assert run(*asked, f"--workdir={workdir}")[0] == 0
        return workdir / "seed_1" if kind == "images" else workdir

    return find


def splits(kind, own):
    """The test classes, as the run has split them."""
    if kind == "images":
        data = mj.data.from_folder(own / "images", size=8)
    elif kind == "texts":
        encode = mj.data.ngrams(64)
        data = mj.data.from_csv(own / "texts.csv", encode=encode, length=32)
    else:
        data = mj.data.from_npz(own / "arrays.npz")
    return mj.data.by_fraction(data, [0.34, 0.33, 0.33])


@pytest.mark.parametrize("kind", RUNS)
def test_a_loaded_run_does_in_tests_what_it_did_itself(kind, finished, own):
    workdir = finished(kind)
    used = mj.load(workdir)
    train, _, test = splits(kind, own)
    assert used.classes == train.names and used.kind == kind
    steps = 0 if kind == "images" else 2
    found = mj.evaluate(
        mj.query_loss(used.learner(3), mj.losses.cross_entropy),
        used.meta,
        mj.data.FewShot(test, 3, 1, 2),
        key=jax.random.key(running.TEST),
        num_tasks=4,
    )
    result = np.load(workdir / "result.npz")
    assert found.tasks_hash == result["tasks_hash"]
    if used.temperature is None:
        np.testing.assert_allclose(
            found.values["loss"], result[f"loss_{steps}"], rtol=1e-4
        )
    else:  # Chosen on the validation tasks, and part of what is reported.
        rows = json.loads((workdir / "result.json").read_text())["rows"]
        assert rows[0]["temperature"] == used.temperature
        assert 0 <= rows[0]["calibration_error"] <= 1


def examples(kind, own, folder):
    """Support and query of three test classes, as files."""
    _, _, test = splits(kind, own)
    if kind == "images":
        for name in test.names:
            shutil.copytree(own / "images" / name, folder / "support" / name)
            (folder / "query").mkdir(exist_ok=True)
            moved = folder / "support" / name / "3.png"
            moved.rename(folder / "query" / f"{name}.png")
        return "support", "query", test.names
    if kind == "texts":
        lines = (own / "texts.csv").read_text().splitlines()
        kept = [x for x in lines[1:] if x.rpartition(",")[2] in test.names]
        (folder / "support.csv").write_text("\n".join([lines[0], *kept[:11]]))
        (folder / "query.csv").write_text("text\n" + kept[11].rpartition(",")[0] + "\n")
        return "support.csv", "query.csv", test.names
    inputs, rows = np.asarray(test.inputs), test.rows
    labels = np.repeat(test.names, 3)
    np.savez(folder / "s.npz", inputs=inputs[rows[:, :3].ravel()], labels=labels)
    np.savez(folder / "q.npz", inputs=inputs[rows[:, 3]])
    return "s.npz", "q.npz", test.names


@pytest.fixture
def predicted(capsys, parse):
    """Predicts as the command does: arguments -> exit code, output, errors."""

    def call(workdir, support, query, *more):
        paths = f"--support={support}", f"--query={query}"
        parse(predict.FLAGS, ["predict", f"--workdir={workdir}", *paths, *more])
        code = predict.predict()
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("kind", RUNS)
def test_new_classes_are_learned_from_files_and_told_in_a_table(
    kind, finished, own, predicted, tmp_path
):
    support, query, names = examples(kind, own, tmp_path)
    picture = tmp_path / "found.png"
    found = tmp_path / support, tmp_path / query, f"--picture={picture}"
    code, out, err = predicted(finished(kind), *found)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["query", "class", "probability"]
    assert len(lines) == (3 if kind == "texts" else 5)
    for line in lines[1:-1]:
        assert line.split()[-2] in names and line.endswith("%")
    if kind == "images":  # Distances to noisy copies: nothing to mistake.
        assert all(line.split()[0] == f"{line.split()[1]}.png" for line in lines[1:-1])
    assert np.asarray(Image.open(picture)).shape[0] > 100


def test_what_cannot_be_read_is_left_out_or_stops(finished, own, predicted, tmp_path):
    support, query, _ = examples("images", own, tmp_path)
    bad = tmp_path / query / "bad.png"
    bad.write_text("no image")
    found = finished("images"), tmp_path / support, tmp_path / query
    code, out, _ = predicted(*found)
    assert code == 0 and "bad.png" not in out
    code, _, err = predicted(*found, "--strict")
    assert code == 2 and "bad.png cannot be read as an image" in err
    (folder, *_) = sorted((tmp_path / support).iterdir())
    for image in folder.iterdir():
        image.write_text("no image")
    code, _, err = predicted(*found)
    assert code == 2 and f"{folder} has no image that can be read" in err


def test_files_that_do_not_fit_are_one_line(finished, own, predicted, tmp_path):
    (tmp_path / "a.csv").write_text("one,two\n1,2\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.csv").write_text("text,label\nhello,a\nbye,a\n")
    np.savez(tmp_path / "a.npz", inputs=np.eye(6))
    for kind, support, message in (
        ("texts", "a.csv", "must name columns text and label"),
        ("texts", "nowhere.csv", "cannot be read"),
        ("texts", "b.csv", "All examples are of class 'a'"),
        ("arrays", "a.npz", "lacks an array labels"),
        ("arrays", "empty", "is no npz file of inputs and labels"),
        ("images", "empty", "has no class folders"),
    ):
        code, _, err = predicted(finished(kind), tmp_path / support, tmp_path / support)
        assert code == 2 and err.count("\n") == 1 and message in err, err
    code, _, err = predicted(tmp_path, tmp_path, tmp_path)
    assert code == 2 and "holds no finished run" in err


def test_the_command_exports(finished, parse, capsys, tmp_path):
    def exported(*arguments):
        parse(export.FLAGS, ["export", *arguments, f"--out={tmp_path / 'run.zip'}"])
        return export.export(), *capsys.readouterr()

    workdir = f"--workdir={finished('images')}"
    assert exported(workdir, "--ways=4", "--shots=2")[0] == 0
    assert (tmp_path / "run.zip").stat().st_size > 1000
    code, _, err = exported(workdir)
    assert code == 2 and "say how many ways" in err
    code, _, err = exported(f"--workdir={finished('arrays')}", "--ways=5")
    assert code == 2 and "trained for 3 ways" in err


def test_a_run_of_sinusoids_and_one_of_another_version(run, tmp_path):
    workdir = tmp_path / "run"
    asked = ["--data=sinusoid", "--shots=5", "--queries=5", "--hidden=4"]
    assert run(*asked, *STEPS, *SHORT, f"--workdir={workdir}")[0] == 0
    used = mj.load(workdir)
    inputs = np.linspace(-1, 1, 5)[:, None]
    task = used.adapt(inputs, np.sin(inputs))
    assert used.predict(task, inputs).outputs.shape == (5, 1)
    record = workdir / "run.flags"
    record.write_text(record.read_text() + "--no_such_flag=3\n")
    with pytest.raises(ValueError, match="no_such_flag.*this version"):
        mj.load(workdir)
    assert used.predict(task, inputs).outputs.shape == (5, 1)  # It is a value.


def test_the_lines_that_the_pages_show_run(finished, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = sorted((own / "images").glob("*/*.png"))
    for image, name in zip((images[0], images[4], images[1]), "abx"):
        shutil.copy(image, f"{name}.png")
    names = {
        "mj": mj,
        "inputs": images[:8],
        "labels": ["cat"] * 4 + ["dog"] * 4,
        "more_inputs": [Image.open(images[8])],
        "more_labels": ["eel"],
        "queries": images[8:10],
    }
    for page in ("README.md", "experiments/README.md"):
        text = (ROOT / page).read_text()
        (lines,) = re.findall(r"```python\n(run = mj\.load.*?)```", text, re.DOTALL)
        exec(lines.replace("runs/mine", str(finished("images"))), names)
        assert names["found"].labels == {"README.md": ["cat"]}.get(page, ["eel", "eel"])
