#!/usr/bin/env bash
# Style and tests: what CI runs. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff format --check .
ruff check .
python -m pytest --numprocesses=auto --dist=worksteal "$@"
