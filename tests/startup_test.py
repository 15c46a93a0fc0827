"""The cache of compiled programs, and the account of a start."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from experiments.running import startup


def test_the_oldest_programs_make_room(tmp_path):
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "directory").mkdir()
    startup._trim(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle", "directory"}


@pytest.mark.parametrize(
    "spans, seconds",
    [
        ([], 0),
        ([(0, 1), (2, 4)], 3),
        ([(0, 4), (1, 2)], 4),
        ([(3, 5), (0, 4)], 5),
    ],
)
def test_time_within_other_time_counts_once(spans, seconds):
    assert startup._covered(spans) == seconds


@pytest.fixture
def settings(monkeypatch):
    """JAX's settings, as far as the cache sets them."""
    made = {}
    monkeypatch.setattr(startup.jax.config, "update", made.__setitem__)
    return made


def test_a_directory_is_used_or_none(settings, tmp_path):
    startup.use_cache(str(tmp_path))
    used = settings["jax_compilation_cache_dir"]
    assert used.startswith(str(tmp_path)) and os.path.isdir(used)
    settings.clear()
    startup.use_cache("none")
    assert settings == {"jax_enable_compilation_cache": False}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777, 0o720])
def test_programs_that_others_may_write_are_not_run(settings, tmp_path, caplog, mode):
    startup.use_cache(str(tmp_path))
    own = tmp_path / startup._processor()
    assert settings.pop("jax_compilation_cache_dir") == str(own) and not caplog.text
    settings.clear()
    own.chmod(mode)
    startup.use_cache(str(tmp_path))
    assert not settings and f"{own} nor kept there" in caplog.text


@pytest.fixture
def jax_s_own(tmp_path):
    """A directory that is set by JAX's own setting."""
    before = startup.jax.config.jax_compilation_cache_dir
    startup.jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    startup.jax.config.update("jax_compilation_cache_dir", before)


def test_jax_s_own_directory_is_refused_likewise(jax_s_own, settings, caplog):
    startup.use_cache(None)
    assert not settings and not caplog.text
    jax_s_own.chmod(0o777)
    startup.use_cache(None)
    assert settings == {"jax_enable_compilation_cache": False}
    assert f"{jax_s_own} nor kept there" in caplog.text


def test_programs_that_others_own_are_not_run(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    startup.use_cache(str(tmp_path))
    assert not settings and "others own it" in caplog.text


def test_a_directory_that_cannot_be_made_is_a_warning(settings, tmp_path):
    (tmp_path / "file").write_text("")
    startup.use_cache(str(tmp_path / "file"))
    assert not settings


DOOR = """
from absl import flags, logging
from experiments import command, door

def run():
    import jax
    logging.info("Found %s.", jax.devices()[0].platform)
    return 0

own = flags.FlagValues()
door.define_run_flags(own)
command.start(own, run, about="")
"""


@pytest.mark.parametrize("asked", ["auto", "tpu"])
def test_a_backend_that_is_not_there_is_told_of_if_asked_for(asked):
    around = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", DOOR, f"--platform={asked}", "--workdir=unused"],
        cwd=Path(__file__).parents[1],
        env=around,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Found " in done.stderr, done.stderr
    if "Found tpu" in done.stderr:
        pytest.skip("there is a TPU here")
    told = [line for line in done.stderr.splitlines() if "initialize backend" in line]
    assert bool(told) == (asked == "tpu")
