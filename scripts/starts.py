"""How scripts start what the doors of `experiments` run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parents[1]


def start(
    door: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """Runs a door in a process of its own; where it fails, this one ends as it has."""
    command = [sys.executable, "-m", f"experiments.{door}", *arguments]
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if code:
        sys.exit(code)  # The run has said why.


def test(door: str, where: Path, name: str, changes: Sequence[str]) -> None:
    """Tests a finished run on other tasks, and writes `NAME.json` into its directory."""
    found = where / f"{name}.json"
    if found.exists():
        return
    for left_over in where.glob("eval*"):  # Of a test that was cut off.
        left_over.unlink()
    start(door, ["--eval_only", f"--workdir={where}", *changes])
    (result,) = where.glob("eval*.json")
    result.rename(found)
