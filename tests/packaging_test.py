"""The wheel, in an environment that has nothing else of this project."""

import os
from pathlib import Path
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile

import pytest

ROOT = Path(__file__).parents[1]


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    into = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target=wheel"]
    call(*build, f"--directory={into}", cwd=ROOT)
    (path,) = into.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """Calls what is installed there, from a directory that is not the checkout."""
    home = wheel.parent / "environment"
    venv.create(home, with_pip=True)
    programs = home / "bin"
    call(programs / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    (packages,) = home.glob("lib/python*/site-packages")
    # What it depends on comes from here; the checkout does not, since the .pth file that
    # adds it is not read on the way.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    around = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}

    def run(program, *arguments):
        return call(programs / program, *arguments, cwd=wheel.parent, env=around)

    return run


def test_the_wheel_has_the_presets_and_no_results(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    folders = [ROOT / "metajax", ROOT / "experiments"]
    kinds = ["*.py", "*.flags", "py.typed"]
    files = [
        path for folder in folders for kind in kinds for path in folder.rglob(kind)
    ]
    assert {"py.typed", "quickstart.flags", "__main__.py"} <= {f.name for f in files}
    files = {str(file.relative_to(ROOT)) for file in files}
    kept = "experiments/results", "experiments/records"  # Of runs of ours.
    assert {file for file in files if not file.startswith(kept)} <= held
    tops = {name.partition("/")[0].partition("-")[0] for name in held}
    assert tops == {"metajax", "experiments"}
    assert not any(name.startswith(kept) for name in held)


def test_what_is_imported_is_what_was_installed(installed):
    code = "from importlib.util import find_spec as f; print(f({!r}).origin)"
    for name in ("metajax", "experiments"):
        path = Path(installed("python", "-c", code.format(name)).strip())
        assert "site-packages" in path.parts and not path.is_relative_to(ROOT)


def test_every_command_helps(installed):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["scripts"]) >= 4
    for program in project["scripts"]:
        assert "--workdir" in installed(program, "--help")


@pytest.mark.parametrize(
    "program, preset",
    [("metajax-few-shot", "quickstart"), ("metajax-meta-rl", "bandit_10x5")],
)
def test_the_runner_knows_its_presets(installed, program, preset):
    assert f"\n  {preset} " in installed(program, "--list")


def test_the_runner_runs(installed):
    smallest = ["num_tasks", "num_devices", "inner_steps", "num_test_tasks"]
    smallest += ["num_validation_tasks"]
    none = ["num_steps", "eval_inner_steps", "select_inner_steps"]
    found = installed(
        "metajax-few-shot",
        "--flagfile=quickstart",
        *(f"--{name}=2" for name in smallest),
        *(f"--{name}=0" for name in none),
        "--platform=cpu",
        "--workdir=run",
    )
    assert "parameters of step 0 of 0" in found
