"""Records of time to accuracy: what a track asks, runs again, and keeps."""

import json
from pathlib import Path

import pytest

from scripts import records

ROOT = Path(__file__).parents[1]
KEPT = sorted(records.RECORDS.glob("*.json"))
FEW = (
    "--hidden=4",
    "--num_steps=2",
    "--eval_every_steps=2",
    "--log_every_steps=1",
    "--num_validation_tasks=3",
    "--num_test_tasks=3",
    "--compilation_cache=none",
)


@pytest.mark.parametrize("track", records.TRACKS, ids=lambda track: track.name)
def test_the_preset_of_a_track_measures_what_it_asks_for(track, with_flags):
    from experiments.few_shot import choosing, door

    for name in filter(None, (track.name, track.start)):
        for changes in track.runs:
            given = f"--flagfile={records.RECORDS / name}.flags", "--workdir=unused"
            steps = with_flags(lambda: door.steps(choosing.now()), *given, *changes)
            assert name == track.start or track.inner_steps in (0, *steps.evaluated)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_each_record_holds_and_was_made_by_its_preset(path):
    name, platform = path.stem.split(".")
    (track,) = (track for track in records.TRACKS if track.name == name)
    found = json.loads(path.read_text())
    assert found["machine"]["platform"] == platform
    test = found[track.metric]
    assert track.holds(test["mean"], test["interval"])
    assert test["num_tasks"] == track.num_tasks
    presets = [*filter(None, (track.start, track.name))] * len(track.runs)
    for preset, run in zip(presets, found["runs"], strict=True):
        (start,) = run["starts"]  # None was cut off, and gone on with.
        assert f"--flagfile=experiments/records/{preset}.flags" in start["command"]
        assert "+" not in start["commit"]


def test_a_threshold_must_be_outside_the_interval():
    accuracy = records.Track("one", "", "accuracy", 0.9)
    loss = records.Track("two", "", "loss", 0.1)
    assert accuracy.holds(0.92, 0.01) and not accuracy.holds(0.92, 0.03)
    assert loss.holds(0.08, 0.01) and not loss.holds(0.08, 0.03)


@pytest.mark.parametrize("start", [None, "sinusoid_10shot"])
def test_a_track_runs_from_nothing_and_is_tested_on_more_tasks(
    start, run, tmp_path, monkeypatch
):
    asked = []

    def here(door, arguments, environment=None):
        asked.append(arguments)
        if "--eval_only" not in arguments:
            assert environment["XDG_CACHE_HOME"] == str(tmp_path / "caches")
            arguments = *arguments, *FEW
        code, _, errors = run(*arguments)
        assert door == "few_shot" and not code, errors

    monkeypatch.setattr(records.starts, "start", here)
    monkeypatch.setattr(records.machine, "describe", lambda wanted: {"commit": "0"})
    monkeypatch.chdir(ROOT)
    seeds = ("--seed=0",), ("--seed=1",)
    track = records.TRACKS[0]._replace(runs=seeds, start=start, num_tasks=5)
    found = records.run(track, tmp_path, None)
    trained = found["runs"][1::2] if start else found["runs"]
    begun = [f for flags in asked for f in flags if f.startswith("--initial_params")]
    assert len(begun) == (len(trained) if start else 0)
    assert len(asked) == 2 * len(trained) + len(begun)
    for seed, kept in zip(seeds, trained, strict=True):
        assert seed[0] in kept["flags"]
    tests = [kept["tests"]["test"]["rows"][-1]["loss"] for kept in trained]
    assert [test["num_tasks"] for test in tests] == [5, 5]
    mean = (tests[0]["mean"] + tests[1]["mean"]) / 2
    assert found["loss"]["mean"] == pytest.approx(mean)
    assert found["seconds"] > 0


def test_the_page_has_the_table_of_the_records():
    assert records.table() in (records.RECORDS / "README.md").read_text()
