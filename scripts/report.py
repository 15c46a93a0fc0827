"""One page on finished runs: what they reach on unseen tasks, and which is ahead.

    python scripts/report.py WORKDIR... [--out=FILE]

The page is one HTML file with its pictures in it, and asks for nothing from elsewhere.
Without --out it is report.html in the first directory.
"""

from pathlib import Path
import sys

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1]))

_OUT = flags.DEFINE_string("out", None, "The page; else report.html in the first run.")


def main(argv: list[str]) -> None:
    named = list(dict.fromkeys(map(Path, argv[1:])))
    if not named:
        sys.exit("Name the directories of finished runs.")
    sys.exit(report(named, Path(_OUT.value or named[0] / "report.html")))


def report(workdirs: list[Path], out: Path) -> int:
    """Writes the page, and returns the exit code."""
    from metajax import (
        files,  # After the arguments, so that a wrong one is told at once.
    )
    from scripts.finished import read
    from scripts.report_page import page

    names = [path.resolve().name for path in workdirs]
    if len(set(names)) < len(names):
        names = [*map(str, workdirs)]
    try:
        runs = [*map(read, workdirs, names)]
        text = page(runs)
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    try:
        files.write_text(out, text)
    except OSError as error:
        reason = error.strerror or error
        print(f"Error: {out} cannot be written ({reason}): set --out.", file=sys.stderr)
        return 2
    print(f"Written to {out}.")
    return 0


if __name__ == "__main__":
    app.run(main)
