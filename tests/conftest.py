"""Strict modes for every test, and where the tests find real data."""

from functools import cache
import gc
import os
from pathlib import Path
import shutil

from absl import flags
import jax
import pytest

# Tests run little and compile much: the kernels of the older emitters, which JAX 0.11 has
# no more, are as right, and three times as quick to compile. Processes that tests start
# inherit both settings.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
_XLA_FLAGS = [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(_XLA_FLAGS)

# Tracing makes objects by the million, most of which live on: to look for garbage after
# every 700 new ones takes a twentieth of the time.
gc.set_threshold(20_000)

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """A directory that the processes of a session share, and no other session."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "caches"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(caches):
    """Keeps caches out of the home directory, and from one test to the next."""
    os.environ["XDG_CACHE_HOME"] = str(caches)


@pytest.fixture(autouse=True, scope="session")
def _compile_once(caches):
    """Keeps compiled programs for other modules, and for other processes."""
    for name, value in {
        "jax_compilation_cache_dir": str(caches / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Lets go of compiled programs before they are more than a process can map."""
    yield
    maps = Path("/proc/self/maps")  # Linux allows 65,530.
    if not maps.exists() or maps.read_bytes().count(b"\n") > 4_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir():
    """The directory of prepared TFDS data, which is only read."""
    path = Path(os.environ.get("TFDS_DATA_DIR") or SHARED / "tfds").expanduser()
    needed = ("omniglot", "mnist", "cifar100", "clinc_oos")
    if not all((path / name).is_dir() for name in needed):
        pytest.skip(f"not all of {', '.join(needed)} are in {path}: set TFDS_DATA_DIR")
    return path


@pytest.fixture(scope="session")
def archives():
    """The directory of original archives, which is only read."""
    path = SHARED / "archives"
    if not path.is_dir():
        pytest.skip(f"no original archives in {path}")
    return path


@pytest.fixture
def copied(data_dir, tmp_path):
    """A data directory with a copy of Omniglot that tests may damage."""
    target = tmp_path / "copied" / "omniglot" / "3.0.0"
    target.mkdir(parents=True)
    for file in (data_dir / "omniglot" / "3.0.0").iterdir():
        shutil.copyfile(file, target / file.name)
    return tmp_path / "copied"


@pytest.fixture
def with_flags(parse):
    """Calls a function once the flags of few-shot runs are parsed from arguments."""
    from experiments.few_shot.door import FLAGS

    def call(function, *arguments):
        parse(FLAGS, ["few_shot", *map(str, arguments)])
        return function()

    return call


@pytest.fixture
def parse():
    """Parses arguments as after a start with them, and no other start before."""
    from experiments import command

    def parse(own: flags.FlagValues, argv: list[str], presets=command.PRESETS) -> None:
        own.unparse_flags()
        for name in own:
            own[name].unparse()
        own(command.with_files(own, argv, presets))

    return parse


@pytest.fixture(scope="session")
def built():
    """Few-shot experiments by the flags that they read, each of which is traced but once.

    But for those of data in files, which may change from one run to the next.
    """
    from experiments import door, running
    from experiments.few_shot.door import FLAGS, experiment
    import metajax as mj

    found = {}

    def build():
        if FLAGS.data not in ("sinusoid", "glyphs"):
            return experiment()
        lines = door.settings(FLAGS, free=()).lines
        others = set(running.Options._fields)
        if FLAGS.outer_schedule != "constant":
            others.remove("num_steps")
        read = tuple(line for name, line in lines.items() if name not in others)
        key = read, mj.data.glyphs  # In whose place some tests have noise.
        if key not in found:
            made = experiment()
            found[key] = made._replace(step=cache(made.step))
        return found[key]

    return build


@pytest.fixture
def draws():
    """Has few-shot runs draw their pictures, which takes longer than to train."""
    from experiments.few_shot import pictures
    from experiments.running import pictures as of_every_run

    skipped = pytest.MonkeyPatch()
    for module, names in {
        of_every_run: ("curves", "along_axis"),
        pictures: (
            "task_sheet",
            "regression",
            "classification",
            "rates",
            "rates_by_step",
        ),
    }.items():
        for name in names:
            skipped.setattr(module, name, lambda *_: None)
    yield skipped.undo
    skipped.undo()


@pytest.fixture
def run(with_flags, built, draws, capsys, monkeypatch):
    """Makes a few-shot run in this process: arguments -> exit code, output, errors.

    It draws no picture, unless the test has called `draws`.
    """
    from experiments.few_shot import door

    def run(*arguments):
        try:
            with monkeypatch.context() as patch:
                patch.setattr(door, "experiment", built)
                code = with_flags(door.run_flags, *arguments)
        except flags.Error as error:
            return 1, "", str(error)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
