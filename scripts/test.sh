#!/usr/bin/env bash
# Style, types and tests: what CI runs. Arguments go to pytest; PYTHON=python3.13 before the
# command runs all of it with that Python and the newest JAX for it.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff format --check .
ruff check .
basedpyright
python -m pytest --numprocesses=auto --dist=worksteal "$@"
