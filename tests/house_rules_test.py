"""The rules of the house: who may import whom, who may jit, what is public."""

import ast
from pathlib import Path
import re
import warnings

import pytest

import metajax as mj

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "metajax").rglob("*.py"))
FILES = {str(path.relative_to(ROOT)): path for path in SOURCES}


def imported(path: Path) -> set[str]:
    """Modules and names that a file imports, dotted."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(names: set[str], *packages: str) -> set[str]:
    return {n for n in names if any(f"{n}.".startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("name", [n for n in FILES if "__init__" not in n])
def test_imports_go_one_way(name):
    names = imported(FILES[name])
    if name.startswith("metajax/algorithms/"):
        rooms = (
            "base",
            "adjoints",
            "contracts",
            "heads",
            "learners",
            "losses",
            "trees",
        )
        allowed = [f"metajax.{room}" for room in rooms]
        assert within(names, "metajax") == within(names, *allowed)
    elif name.startswith(("metajax/models/", "metajax/data/")):
        room = "metajax." + name.split("/")[1]
        assert within(names, "metajax") == within(names, "metajax.base", room)
    if not name.startswith("metajax/models/"):
        assert not within(names, "flax")
    assert not within(names, "absl.flags", "experiments")


ENGINE = sorted((ROOT / "experiments" / "running").glob("*.py"))
RUNNERS = sorted((ROOT / "experiments").rglob("*.py"))


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.stem)
def test_the_engine_knows_no_experiment_and_no_flag(path):
    names = imported(path)
    assert within(names, "experiments") == within(names, "experiments.running")
    assert not within(names, "absl.flags", "flax", "optax.adam")
    words = re.findall(r"[a-z]+", path.read_text().lower())
    few_shot = {"ways", "shots", "support", "queries", "inner", "learner", "learners"}
    assert not few_shot & set(words)


@pytest.mark.parametrize("path", RUNNERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_are_read_at_doors_alone(path):
    """Others may define flags, and find out names; values are read by doors."""
    is_door = path.stem in ("door", "command", "choosing")
    is_door |= path.parent.name == "experiments"  # A door and its experiment in one.
    reads = re.findall(r"FLAGS\.[a-z_]+|FLAGS\[[^]]*\]\.value", path.read_text())
    assert is_door or not reads
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", FILES)
def test_recipes_are_not_jitted(name):
    may_jit = (
        "metajax/training.py",
        "metajax/evaluation.py",
        "metajax/hypergrad.py",
        "metajax/using.py",
        "metajax/rl/playing.py",
        "metajax/exporting.py",
        "metajax/data/glyphs.py",
        "metajax/encoders/minilm.py",
        "metajax/encoders/efficientnet_lite0.py",
        "metajax/tabular/networks.py",
        "metajax/adjoints/updates.py",  # Its check of the optimizer, while tracing.
    )
    lines = map(str.strip, FILES[name].read_text().splitlines())
    code = [line for line in lines if not line.startswith((">>>", "..."))]
    assert name in may_jit or "jax.jit" not in "\n".join(code)  # But for examples.


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_fit_a_reader(name):
    text = FILES[name].read_text()
    # The public index and the prose of docstrings may run on; code may not.
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) else node.body[0]
            assert node.end_lineno - first.lineno < 50, node.name


def public(module) -> list[str]:
    return [name for name in vars(module) if not name.startswith("_")]


def test_every_public_name_is_documented():
    modules = mj, mj.data, mj.encoders, mj.models, mj.adjoints, mj.estimators, mj.losses
    for module in modules:
        for name in public(module):
            value = getattr(module, name)
            if getattr(value, "__module__", "").startswith("metajax"):
                assert value.__doc__, name


def test_every_pinned_package_has_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    assert len(packages) > 70
    for package in packages:
        assert re.match(r"[\w-]+==[\w.]+ .*\\\n +--hash=sha256:[0-9a-f]{64}\b", package)


@pytest.mark.parametrize("kind", [DeprecationWarning, FutureWarning])
@pytest.mark.parametrize(
    "module, is_error",
    [
        ("metajax.training", True),
        ("experiments.command", True),
        (__name__, True),
        ("jax._src.numpy.util", True),
        ("flax.core", False),
        ("jaxtyping", False),
    ],
)
def test_what_is_deprecated_is_an_error_but_to_third_parties(kind, module, is_error):
    expected = pytest.raises if is_error else pytest.warns
    with expected(kind, match="is old"):
        warnings.warn_explicit("This is old.", kind, "file.py", 1, module=module)
