"""What is kept of a run: all that tables need, little else, and nothing of the machine."""

import json
from pathlib import Path
import re

import numpy as np
import pytest

from scripts import kept
from scripts.runs import DOORS, STUDIES

RESULTS = Path(__file__).parents[1] / "experiments" / "results"


def log(num_lines: int, validate_every: int) -> list[dict]:
    lines = [
        {"step": 10 * (i + 1), "train/loss": 1 / (i + 3)} for i in range(num_lines)
    ]
    for line in lines[validate_every - 1 :: validate_every]:
        line["validation/accuracy"] = line["step"] / 7000
    return lines


@pytest.fixture
def workdir(tmp_path):
    """As a run leaves it, of what is kept."""
    where = tmp_path / "machine" / "runs" / "sinusoid-0"
    where.mkdir(parents=True)
    start = {
        "arguments": ["--seed=0", f"--workdir={where}", "--about=two words"],
        "commit": "0123456789ab+",
        "device": "2 cpu device(s), cpu",
    }
    texts = {
        "result.json": json.dumps({"rows": [{"loss": {"mean": 1 / 3}}]}),
        "shots-5.json": json.dumps({"rows": [{"loss": {"mean": None}}]}),
        "starts.jsonl": (json.dumps(start) + "\n") * 2,
        "run.flags": f"--seed=0\n--data_dir={tmp_path}/machine/data\n",
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in log(600, 50)),
    }
    for name, text in texts.items():
        (where / name).write_text(text)
    return where


def test_what_is_kept_of_a_run_comes_back(workdir, tmp_path):
    place = str(tmp_path / "machine")
    found = kept.gather(workdir, "few_shot", ["shots-5"], [place])
    assert found.result == json.loads((workdir / "result.json").read_text())
    assert found.tests["shots-5"]["rows"][0]["loss"]["mean"] is None
    command = "python -m experiments.few_shot --seed=0 --workdir=DIR/runs/sinusoid-0"
    assert found.starts[1]["command"] == f"{command} '--about=two words'"
    assert found.starts[0]["commit"] == "0123456789ab+"
    assert found.flags == ["--seed=0", "--data_dir=DIR/data"]
    path = tmp_path / "kept" / "sinusoid-0.json"
    kept.write(path, found)
    assert kept.read(path) == found
    assert place not in path.read_text()


@pytest.mark.parametrize("num_lines, validate_every", [(600, 50), (30, 3), (600, 2)])
def test_a_curve_is_short_and_validations_go_first(num_lines, validate_every):
    lines = log(num_lines, validate_every)
    curve = kept.curve(lines)
    steps = curve["step"]
    assert len(steps) == min(kept.MOST_POINTS, num_lines) == len(set(steps))
    assert steps == sorted(steps) and all(len(c) == len(steps) for c in curve.values())
    by_step = {line["step"]: line for line in lines}
    for name in curve:
        for step, value in kept.points(curve, name):
            np.testing.assert_allclose(value, by_step[step][name], rtol=1e-5)
    validated = [line["step"] for line in lines if "validation/accuracy" in line]
    drawn = [step for step, _ in kept.points(curve, "validation/accuracy")]
    if len(validated) <= kept.MOST_POINTS:
        assert drawn == validated
        assert np.diff(steps).max() < 3 * (num_lines * 10 / kept.MOST_POINTS)
    else:  # From the first to the last, evenly.
        assert (drawn[0], drawn[-1]) == (validated[0], validated[-1])
        assert np.ptp(np.diff(drawn)) <= validated[1] - validated[0]


def test_a_run_without_steps_has_an_empty_curve():
    assert kept.points(kept.curve([]), "validation/accuracy") == []


def test_values_that_are_not_finite_are_no_points():
    curve = kept.curve(
        [{"step": 1, "train/loss": None}, {"step": 2, "train/loss": 0.5}]
    )
    assert kept.points(curve, "train/loss") == [(2, 0.5)]


def test_json_for_people_is_json(tmp_path):
    value = {
        "empty": [{}, [], None],
        "text": ['quoted "word" ' * 20, "ä"],
        "numbers": [1 / 3] * 100,
        "nested": [{"a": {"b": [True, "x" * 150]}}] * 2,
    }
    kept.write(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value


def test_tables_are_put_beside_what_they_are_made_of(tmp_path):
    (tmp_path / "peers.json").write_text('{"rows": [1, 2]}')
    (tmp_path / "peers.txt").write_text("two\nlines\n")
    (tmp_path / "startup.txt").write_text("one\n")
    kept.put_tables_into_json(tmp_path)
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert found == {
        "peers.json": {"table": ["two", "lines"], "found": {"rows": [1, 2]}},
        "startup.json": {"table": ["one"]},
    }


def test_the_folder_of_results_has_a_file_for_each_line_and_pictures():
    names = {
        str(Path(door.results) / f"{run.name}-{seed}")
        for door in DOORS
        for run in door.runs
        for seed in run.seeds
    }
    told = {f"sinusoid_small_init-{seed}" for seed in (0, 1, 2)}  # In words, no table.
    for path in RESULTS.rglob("*"):
        name = str(path.relative_to(RESULTS).with_suffix(""))
        if path.is_dir() or name.startswith(("benchmark/", "faults/", "hypergrad/")):
            continue
        assert path.suffix in (".json", ".png", ".gif", ".md"), path
        if path.suffix == ".json" and name not in {study.name for study in STUDIES}:
            assert name in names | told, path
            found = kept.read(path)
            assert len(found.curve.get("step", [])) <= kept.MOST_POINTS
            assert found.starts and found.result["rows"], path


def test_no_machine_is_told_of_in_results():
    for path in RESULTS.rglob("*.json"):
        homes = re.search(r"[\"= ]/(home|root|tmp|work|Users|mnt)\b", path.read_text())
        assert homes is None, path
