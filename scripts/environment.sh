# Sourced by the other scripts: makes .venv with the pinned packages, and activates it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -e .venv/made ] || [ requirements.lock -nt .venv/made ]; then
  if command -v uv >/dev/null; then
    echo "Making .venv with uv."
    uv venv --quiet --allow-existing --python '>=3.11,<3.15' .venv
    uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
    uv pip install --quiet --python .venv/bin/python --no-deps -e .
  else
    for python in python3 python3.13 python3.12 python3.11 none; do
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
    [ "$python" != none ] || { echo "Install Python 3.11 or newer first." >&2; exit 1; }
    echo "Making .venv with pip; this takes a minute or two."
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --require-hashes -r requirements.lock
    .venv/bin/python -m pip install --quiet --no-deps -e .
  fi
  touch .venv/made
fi
source .venv/bin/activate
