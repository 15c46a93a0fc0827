"""Presets by name: from anywhere, one in another, and what is said of a wrong one."""

from pathlib import Path

from absl import flags
import pytest

from experiments import command

FOLDERS = [command.PRESETS, *filter(Path.is_dir, command.PRESETS.iterdir())]
PRESETS = [(each, folder) for folder in FOLDERS for each in folder.glob("*.flags")]


def lines(argument, presets=command.PRESETS):
    return command.with_presets(argument.split(), presets)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A directory to work in that is not the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("preset, folder", PRESETS, ids=lambda path: path.stem)
def test_a_preset_has_its_name_everywhere(preset, folder, elsewhere):
    found = lines(f"--flagfile={preset.stem}", folder)
    assert found == lines(f"--flagfile={preset}", folder)
    assert found and all(line.startswith("--") for line in found)
    assert not any("flagfile" in line for line in found)


def test_lines_take_the_place_of_the_name(elsewhere):
    (elsewhere / "base.flags").write_text("# A note.\n\n--seed=1\n// Another.\n")
    (elsewhere / "own").write_text("--flagfile=base.flags\n  --seed=2\n")
    expected = ["run", "--seed=0", "--seed=1", "--seed=2", "--seed=3"]
    for form in ("--flagfile=own", "-flagfile=own", "--flagfile own"):
        assert lines(f"run --seed=0 {form} --seed=3") == expected


def test_a_file_goes_before_a_preset(elsewhere):
    (elsewhere / "quickstart").mkdir()  # A directory is none.
    assert "--num_steps=10000" in lines("--flagfile=quickstart")
    (elsewhere / "quickstart").rmdir()
    (elsewhere / "quickstart").write_text("--seed=7\n")
    assert lines("--flagfile=quickstart") == ["--seed=7"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("quickstrt", "no flag file or preset 'quickstrt': did you mean quickstart"),
        ("quickstart.flags", "did you mean quickstart"),
        (command.PRESETS / "sinusiod.flags", "did you mean sinusoid"),
        ("bandit_10x5", "'bandit_10x5': see --list"),  # Of another door.
        ("zzz", "'zzz': see --list"),
        ("", "no flag file or preset ''"),
        ("circle", "circle names itself by --flagfile"),
        ("picture", "picture cannot be read"),
    ],
)
def test_a_wrong_name_is_answered_with_near_ones(name, message, elsewhere):
    (elsewhere / "circle").write_text("--flagfile=half\n")
    (elsewhere / "half").write_text("--flagfile=circle\n")
    (elsewhere / "picture").write_bytes(b"\x89PNG\xff")
    with pytest.raises(flags.Error) as caught:
        lines(f"--flagfile={name}")
    assert message in str(caught.value)
