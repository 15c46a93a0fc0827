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
    (track,) = (track for track in records.TRACKS if track.name == path.stem)
    found = json.loads(path.read_text())
    test = found[track.metric]
    assert track.holds(test["mean"], test["interval"])
    assert test["num_tasks"] == track.num_tasks and len(found["runs"]) == len(
        track.runs
    )
    for run in found["runs"]:
        (start,) = run["starts"]  # None was cut off, and gone on with.
        assert f"--flagfile=experiments/records/{track.name}.flags" in start["command"]
        assert "+" not in start["commit"]


def test_a_threshold_must_be_outside_the_interval():
    accuracy = records.Track("one", "", "accuracy", 0.9)
    loss = records.Track("two", "", "loss", 0.1)
    assert accuracy.holds(0.92, 0.01) and not accuracy.holds(0.92, 0.03)
    assert loss.holds(0.08, 0.01) and not loss.holds(0.08, 0.03)


def test_a_track_runs_from_nothing_and_is_tested_on_more_tasks(
    run, tmp_path, monkeypatch
):
    starts = []

    def here(arguments, environment):
        starts.append(arguments)
        assert environment["XDG_CACHE_HOME"].startswith(str(tmp_path))
        assert not any((tmp_path / "caches").rglob("*"))
        more = () if "--eval_only" in arguments else FEW
        code, _, errors = run(*arguments, *more)
        assert not code, errors

    monkeypatch.setattr(records, "_few_shot", here)
    monkeypatch.setattr(records.machine, "describe", lambda wanted: {"commit": "0"})
    monkeypatch.chdir(ROOT)
    track = records.TRACKS[0]._replace(runs=(("--seed=0",), ("--seed=1",)), num_tasks=5)
    found = records.run(track, tmp_path, None)
    assert len(starts) == 4 and [len(run["flags"]) > 9 for run in found["runs"]] == [
        1,
        1,
    ]
    tests = [run["tests"]["test"]["rows"][-1]["loss"] for run in found["runs"]]
    assert [test["num_tasks"] for test in tests] == [5, 5]
    assert found["loss"]["mean"] == pytest.approx(
        (tests[0]["mean"] + tests[1]["mean"]) / 2
    )
    assert found["seconds"] > 0


def test_the_page_has_the_table_of_the_records():
    assert records.table() in (records.RECORDS / "README.md").read_text()
