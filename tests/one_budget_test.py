"""All learners under one budget: their flags, how long they train, what is kept."""

import json

import pytest

from scripts import one_budget


@pytest.mark.parametrize("name", one_budget.LEARNERS)
def test_each_learner_is_measured_on_the_same_tasks(name, with_flags):
    from experiments.few_shot import choosing, door

    def read():
        picked, own = choosing.now(), door.FLAGS
        assert picked.names["learner"] == name
        assert door.steps(picked).evaluated
        data = own.data, own.omniglot_classes, own.rotated_classes
        tasks = own.eval_ways, own.eval_shots or own.shots, own.eval_queries
        return data, tasks, own.model, own.width, own.downsample, own.normalization

    found = with_flags(read, *one_budget.asked(name), "--workdir=unused")
    same = ("conv4", 64, "stride", "group")
    assert found == (("omniglot", "vinyals", True), (5, 1, 15), *same)


def test_a_trial_tells_how_many_steps_fill_the_minutes(tmp_path, monkeypatch):
    asked = []

    def start(door, arguments):
        asked.append(arguments)
        (where,) = (a.split("=")[1] for a in arguments if a.startswith("--workdir"))
        if where.endswith("-trial"):
            lines = [{"seconds": 7 + 0.5 * i} for i in range(6)]  # 0.05 s a step.
            path = tmp_path / "maml-trial"
            path.mkdir()
            (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
            (path / "result.json").write_text("{}")

    monkeypatch.setattr(one_budget.starts, "start", start)
    one_budget.train("maml", 3, tmp_path)
    one_budget.train("maml", 3, tmp_path)  # It was cut off: as many steps again.
    (tmp_path / "maml.steps").unlink()  # Cut off after its trial: no second one.
    one_budget.train("maml", 3, tmp_path)
    trial, first, again, later = asked
    assert later == first
    assert f"--num_steps={60 * 3 * 20}" in first and again == first
    assert f"--eval_every_steps={6 * 3 * 20}" in first
    assert "--learner=maml" in trial and "--learner=maml" in first


def test_the_page_has_the_table_and_the_picture_is_of_the_same_runs(tmp_path):
    kept = json.loads(one_budget.PATH.read_text())
    found = kept["found"]
    assert list(found) == [name for name in one_budget.LEARNERS if name in found]
    hashes = {run["result"]["tasks_hash"] for run in found.values()}
    assert len(hashes) == 1  # Paired, since all are tested on the same tasks.
    table = one_budget.table(found)
    assert kept["table"] == table.splitlines()
    assert table in (one_budget.PATH.parents[1] / "README.md").read_text()
    one_budget.draw(found, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 10_000
