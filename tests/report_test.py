"""The report says what runs have written, decides rightly, and needs nothing else."""

import base64
from html.parser import HTMLParser
import io
import json
from pathlib import Path
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
from PIL import Image
import pytest
from scipy import stats

from experiments import running
from experiments.examples import own_experiment
from experiments.few_shot import door as few_shot
from experiments.running import Measurement, Metric, measuring, reporting
from scripts.finished import read
from scripts.report_page import page

ROOT = Path(__file__).parents[1]
ACCURACY = Metric("accuracy", larger_is_better=True, is_share=True)
TASKS = 50


class Page(HTMLParser):
    """Makes sure that tags are closed in turn; keeps text, and where pictures are."""

    def __init__(self, html: str):
        super().__init__()
        self.opened, self.text, self.sources, self.tags = [], [], [], set()
        self.feed(html)
        self.close()
        assert not self.opened

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [x for name, x in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if "style" not in self.opened:
            self.text.append(data)

    def says(self, text: str) -> bool:
        return text in " ".join(self.text)


def finished(
    directory: Path,
    places=(0, 3),
    tasks_hash="aa",
    metric=ACCURACY,
    settings=("--learner=maml",),
    seed=0,
    **values,
) -> Path:
    """A directory as a run leaves it; values are `[tasks, places]`, by metric."""
    directory.mkdir(parents=True)
    found = Measurement("inner steps", places, values, tasks_hash)
    result = {
        "seed": seed,
        "tasks_hash": tasks_hash,
        "num_tasks": TASKS,
        "best_step": 20,
        "steps": 30,
        "train_seconds": 1.5,
        "metric": metric._asdict(),
        "axis": found.axis,
        "rows": measuring.rows(found),
    }
    text = json.dumps(result).replace("NaN", "null").replace("Infinity", "null")
    (directory / "result.json").write_text(text)
    by_place = {f"{n}_{p}": found.at(n, p) for n in values for p in places}
    np.savez(directory / "result.npz", tasks_hash=tasks_hash, **by_place)
    np.savez(directory / "best.npz", a=0)
    lines = [{"step": 10, f"validation/{metric.name}": 0.5}, {"step": 20}]
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(log)
    (directory / "result.txt").write_text("a table\n")
    Image.new("RGB", (8, 4)).save(directory / "curves.png")
    started(directory, settings)
    return directory


def started(directory: Path, settings) -> None:
    start = {
        "arguments": ["--seed=0", "--about=two words"],
        "commit": "0123456789ab",
        "device": "2 cpu device(s), cpu",
        "python": "3.11.7",
        "versions": {"jax": "0.10.2"},
    }
    (directory / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (directory / "run.flags").write_text("\n".join(settings) + "\n")


def shares(seed: int, ahead=0.0, num_places=2) -> np.ndarray:
    """What tasks have in common, something of their own, and by how much it is ahead."""
    common = np.random.default_rng(0).uniform(0.3, 0.6, (TASKS, num_places))
    own = np.random.default_rng(seed).normal(scale=0.02, size=(TASKS, num_places))
    return (common + own + ahead).astype(np.float32)


def report(*directories: Path) -> Page:
    return Page(page([read(path, path.name) for path in directories]))


def interval(values) -> float:
    """Half the width of the 95% interval of the mean."""
    return stats.t.interval(0.95, len(values) - 1, scale=stats.sem(values))[1]


def test_a_run_of_its_own_is_reported_with_all_its_numbers(tmp_path, capsys):
    options = running.Options(
        tmp_path / "mine", num_steps=2, log_every_steps=1, eval_every_steps=1
    )
    assert running.run(own_experiment.experiment, options) == 0
    printed = capsys.readouterr().out
    assert f"python -m experiments.compare {tmp_path}/mine OTHER" in printed
    assert f"python scripts/report.py {tmp_path}/mine\n" in printed
    result = json.loads((tmp_path / "mine" / "result.json").read_text())
    assert result["metric"]["name"] == "loss"
    found = report(tmp_path / "mine")
    assert len(result["rows"]) == 3
    for row in result["rows"]:
        mean, half = row["loss"]["mean"], row["loss"]["interval"]
        assert found.says(f"{mean:.3f} ± {half:.3f}")
    assert found.says(result["tasks_hash"])
    drawn = {path.name for path in (tmp_path / "mine").glob("*.png")}
    assert drawn == {"curves.png", "result.png"} and len(found.sources) == 2


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path):
    run = finished(tmp_path / "<b>&amp;", accuracy=shares(1))
    found = report(run, finished(tmp_path / "other", accuracy=shares(2)))
    assert found.says("<b>&amp;") and "b" not in found.tags
    assert not {"script", "link", "iframe"} & found.tags
    assert len(found.sources) == 3  # Of both runs together, and one of each.
    for source in found.sources:
        kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", source).groups()
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert picture.format.lower() == kind == "png" and picture.size[0] > 1
    text = page([read(run, "run")])
    assert "http" not in text and "url(" not in text and "@import" not in text
    for piece in ("0123456789ab", "2 cpu device(s), cpu", "jax 0.10.2"):
        assert found.says(piece)
    assert found.says("--seed=0 '--about=two words'")


@pytest.mark.parametrize("metric", [ACCURACY, Metric("loss")])
def test_what_is_ahead_is_said_with_the_paired_interval(tmp_path, metric):
    high, low = shares(1, ahead=0.05), shares(2)
    runs = [
        finished(tmp_path / name, metric=metric, **{metric.name: values})
        for name, values in (("low", low), ("high", high))
    ]
    best, other = ("high", "low") if metric.larger_is_better else ("low", "high")
    gaps = (high - low)[:, 1]
    scale = 100 if metric.is_share else 1
    digits, unit = (2, "%") if metric.is_share else (3, "")
    told = (
        f"{scale * gaps.mean():.{digits}f} ± {scale * interval(gaps):.{digits}f}{unit}"
    )
    found = report(*runs)
    assert found.says(f"{best} has the best mean {metric.name} of")
    assert found.says(
        f"ahead of {other} by {told}, task by task: the interval excludes 0"
    )
    # By itself, neither mean is told from the other: pairing is what does it.
    assert interval(high[:, 1]) + interval(low[:, 1]) > gaps.mean()


def test_what_chance_may_have_done_is_not_called_ahead(tmp_path):
    runs = [finished(tmp_path / f"{n}", accuracy=shares(n)) for n in (1, 2)]
    gaps = shares(1)[:, 1] - shares(2)[:, 1]
    assert abs(gaps.mean()) < interval(gaps)
    found = report(*runs)
    assert found.says("is not told apart from") and not found.says("is ahead of")


def test_runs_on_other_tasks_are_not_compared(tmp_path):
    runs = [
        finished(tmp_path / f"{n}", tasks_hash=h, accuracy=shares(n, ahead=n / 10))
        for n, h in ((1, "aa"), (2, "aa"), (3, "bb"))
    ]
    found = report(*runs)
    assert found.says("1, 2 on aa") or found.says("2, 1 on aa")
    assert found.says("3 on bb") and found.says("no paired difference")
    assert found.says("2 (after 3) minus 1 (after 3)")
    assert not any(found.says(f"3 (after 3) minus {n}") for n in (1, 2))
    alone = report(runs[0], runs[2])
    assert alone.says("no paired difference") and not alone.says("Paired differences")


def test_of_several_seeds_each_task_has_its_mean(tmp_path):
    workdir = tmp_path / "many"
    each = [shares(1), shares(2), shares(3)]
    for seed, values in enumerate(each):
        finished(workdir / f"seed_{seed}", seed=seed, accuracy=values)
    (workdir / "result.json").write_text(json.dumps({"seeds": [0, 1, 2]}))
    (workdir / "result.txt").write_text("a table\n")
    started(workdir, ["--num_seeds=3"])
    one = finished(tmp_path / "one", accuracy=shares(4, ahead=-0.05))
    found = report(workdir, one)
    mean = np.mean(each, axis=0)[:, 1]
    assert found.says(f"{100 * mean.mean():.2f} ± {100 * interval(mean):.2f}%")
    spread = np.std([values[:, 1].mean() for values in each], ddof=1)
    assert found.says(f"3, std {spread:.2g}")
    gaps = mean - shares(4, ahead=-0.05)[:, 1]
    told = f"{100 * gaps.mean():.2f} ± {100 * interval(gaps):.2f}%"
    assert found.says("many has the best") and found.says(f"ahead of one by {told}")


def test_runs_count_at_the_place_that_they_were_chosen_by(tmp_path):
    values = shares(1)
    values[3, 1] = np.nan
    settings = ["--learner=meta_sgd", "--select_inner_steps=0", "--warp"]
    chosen = finished(tmp_path / "chosen", settings=settings, accuracy=values)
    other = finished(
        tmp_path / "other", settings=["--learner=maml", "--nowarp"], accuracy=values
    )
    found = report(chosen, other)
    assert found.says(f"of {100 * values[:, 0].mean():.2f} ± ")
    assert found.says("chosen has the best mean accuracy of") and found.says("after 0")
    assert found.says("From other (after 3) no difference can be told")
    assert found.says("1 not finite") and not found.says("nan")
    text = " ".join(found.text)
    rows = re.findall(r"--(\w+) +(\S+) +(\S+)", text.split("What differs")[1])[:3]
    assert rows == [
        ("learner", "meta_sgd", "maml"),
        ("select_inner_steps", "0", "-"),
        ("warp", "yes", "no"),
    ]


def test_what_adaptation_changes_is_said_of_a_run_alone(tmp_path):
    values = shares(1)
    values[:, 1] += 0.2
    change = values[:, 1] - values[:, 0]
    told = f"{100 * change.mean():.2f} ± {100 * interval(change):.2f}%"
    found = report(finished(tmp_path / "run", accuracy=values))
    assert found.says(f"From 0 to 3 inner steps accuracy changes by {told}")


def test_calibration_is_shown_where_it_was_measured(tmp_path):
    score = shares(5)
    run = finished(tmp_path / "run", accuracy=shares(1), brier=score)
    result = json.loads((run / "result.json").read_text())
    for row, error in zip(result["rows"], (0.25, 0.125)):
        row |= {"calibration_error": error, "temperature": 1.5}
    (run / "result.json").write_text(json.dumps(result))
    without = finished(tmp_path / "without", accuracy=shares(1))
    found = report(run, without)
    assert found.says("Calibration") and found.says("expected calibration error")
    told = f"{score[:, 1].mean():.3f} ± {interval(score[:, 1]):.3f}"
    (cells,) = re.findall("<td>run</td>(<td>0.125.*)</tr>", page([read(run, "run")]))
    assert cells == f"<td>0.125</td><td>{told}</td><td>1.500</td>"
    assert not report(without).says("Calibration")


def test_results_of_before_metrics_were_named_can_be_read(tmp_path):
    for name in ("accuracy", "total"):
        run = finished(tmp_path / name, **{name: shares(1), "loss": shares(2)})
        result = json.loads((run / "result.json").read_text())
        del result["metric"]
        (run / "result.json").write_text(json.dumps(result))
        assert read(run, "run").metric.name == name
        assert read(run, "run").metric.larger_is_better


def test_a_run_ends_by_saying_what_to_do_next():
    options = running.Options(Path("runs/my run"))
    used = own_experiment.experiment()._replace(next_steps={"use": "tool --at=DIR"})
    *_, last = reporting.next_steps(used, options).splitlines()
    assert last.split(maxsplit=1) == ["use", "tool --at='runs/my run'"]
    seeds = reporting.next_steps(used, options._replace(num_seeds=2))
    assert "experiments.compare 'runs/my run/seed_0' OTHER" in seeds
    assert "scripts/report.py 'runs/my run'\n" in seeds
    assert "tool --at='runs/my run/seed_0'\n" in seeds


def test_a_classifier_of_few_examples_can_be_used(with_flags):
    def steps(**problem):
        asked = ["--workdir=DIR", "--data=glyphs", "--shots=2"]
        problem = SimpleNamespace(**problem)
        return with_flags(lambda: few_shot._next_steps(problem), *asked)

    found = steps(classifies=True, eval_outputs=4)
    assert found["export"].endswith("--workdir=DIR --ways=4 --shots=2 --out=FILE")
    assert "experiments.predict --workdir=DIR --support=FOLDER" in found["predict"]
    assert steps(classifies=False, eval_outputs=1) == {}


@pytest.mark.parametrize("left", [[], ["run.flags"], ["run.flags", "result.json"]])
def test_what_is_no_finished_run_is_refused_in_a_line(tmp_path, left):
    run = finished(tmp_path / "run", accuracy=shares(1))
    for path in run.iterdir():
        if path.name not in left:
            path.unlink()
    if "result.json" in left:  # Whose values are lost, and cannot be found again.
        with pytest.raises(OSError, match=r"result\.npz"):
            read(run, "run")
    else:
        with pytest.raises(ValueError, match="holds no finished run: name the"):
            read(run, "run")


def test_the_command_writes_a_page_or_says_in_a_line_why_not(tmp_path):
    run = finished(tmp_path / "run", accuracy=shares(1))
    command = [sys.executable, ROOT / "scripts" / "report.py", run]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"Written to {run}/report.html.\n", done.stderr
    Page((run / "report.html").read_text())
    out = tmp_path / "absent" / "a.html"
    done = subprocess.run([*command, f"--out={out}"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {out} cannot be written (No such file")
    assert done.stderr.count("\n") == 1
