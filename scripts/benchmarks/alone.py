"""One suite in this process: python -m scripts.benchmarks.alone SUITE DIRECTORY QUICK.

Prints the table, and nothing else, on standard output.
"""

import importlib
from pathlib import Path
import sys

import jax


def main() -> None:
    name, out, quick = sys.argv[1:]
    # As of PyTorch beside it: a GPU would round factors to ten bits.
    jax.config.update("jax_default_matmul_precision", "highest")
    suite = importlib.import_module(f"scripts.benchmarks.{name}")
    print(suite.table(suite.run(Path(out), quick == "True")))


if __name__ == "__main__":
    main()
