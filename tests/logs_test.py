import json

import pytest

from metajax import logs


@pytest.fixture
def path(tmp_path):
    """A log of four lines."""
    with logs.MetricLog(tmp_path, 0) as log:
        for step in (1, 2, 3, 4):
            log.write(step, {"loss": step / 3})
    return log.path


def steps(path):
    return [line["step"] for line in logs.read_metrics(path)]


def test_later_lines_are_dropped_and_others_kept_to_the_bit(path, caplog):
    before = path.read_bytes()
    with logs.MetricLog(path.parent, 4, logged=[1, 2, 3, 4]):
        pass
    assert path.read_bytes() == before and not caplog.text
    with logs.MetricLog(path.parent, 2, logged=[1, 2]) as log:
        log.write(3, {"loss": float("inf")})
    assert path.read_text() == "\n".join(before.decode().split("\n")[:2]) + (
        '\n{"step": 3, "loss": null}\n'
    )
    assert not caplog.text


DAMAGES = {
    "emptied": (lambda text: "", [1, 2, 3, 4], []),
    "cut": (lambda text: text[:40], [2, 3, 4], []),
    "one line out": (lambda text: text.partition("\n")[2], [1], []),
    "zeros after it": (lambda text: text + "\0" * 50, [], []),
    "zeros in its place": (lambda text: "\0" * len(text), [1, 2, 3, 4], []),
    "middle": (lambda text: text.replace('{"step": 2', '{"st\ufffd'), [2], [2]),
    "no object": (lambda text: "5\n" + text, [], [1]),
    "no step": (lambda text: text.replace('"step": 3', '"stop": 3'), [3], [3]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_said_with_the_steps_that_are_missing(path, caplog, name):
    damage, missing, damaged = DAMAGES[name]
    path.write_text(damage(path.read_text()))
    with logs.MetricLog(path.parent, 4, logged=[1, 2, 3, 4]) as log:
        log.write(5, {"loss": 0.5})
    left = [step for step in (1, 2, 3, 4, 5) if step not in missing]
    assert steps(path) == left
    assert all(json.loads(line)["step"] for line in path.read_text().splitlines())
    texts = [record.getMessage() for record in caplog.records]
    said = f"{path} lacks the lines of steps {', '.join(map(str, missing))}, which"
    assert [said in text for text in texts if "lacks" in text] == [True] * bool(missing)
    said = f"{path} is damaged and read without its lines {damaged}.".translate(
        {ord("["): None, ord("]"): None}
    )
    assert [text for text in texts if "damaged" in text] == [said] * bool(damaged)


def test_a_last_line_without_its_end_counts_if_it_is_whole(path, caplog):
    whole = path.read_text()
    path.write_text(whole[:-1])
    assert steps(path) == [1, 2, 3, 4]
    with logs.MetricLog(path.parent, 4, logged=[1, 2, 3, 4]):
        pass
    assert path.read_text() == whole and not caplog.text
    path.write_text(whole[:-2])
    assert steps(path) == [1, 2, 3] and not caplog.text


def test_a_file_that_takes_the_place_of_the_log_is_not_written(tmp_path):
    with logs.MetricLog(tmp_path, 0) as log:
        log.path.unlink()
        log.path.write_text("of another run\n")
        log.write(1, {"loss": 0.5})
    assert log.path.read_text() == "of another run\n"
