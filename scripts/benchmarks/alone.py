"""One suite in this process: python -m scripts.benchmarks.alone SUITE DIRECTORY QUICK.

Prints the table, and nothing else, on standard output.
"""

import importlib
from pathlib import Path
import sys


def main() -> None:
    name, out, quick = sys.argv[1:]
    suite = importlib.import_module(f"scripts.benchmarks.{name}")
    print(suite.table(suite.run(Path(out), quick == "True")))


if __name__ == "__main__":
    main()
