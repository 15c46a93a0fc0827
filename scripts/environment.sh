# Sourced by the other scripts: makes .venv with the pinned packages, and activates it; for
# PYTHON=python3.13, say, .venv-3.13 with that Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=.venv
if [ -n "${PYTHON:-}" ]; then
  environment+=-$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
fi
if [ ! -e $environment/made ] || [ requirements.lock -nt $environment/made ]; then
  if command -v uv >/dev/null; then
    echo "Making $environment with uv."
    uv venv --quiet --allow-existing --python "${PYTHON:->=3.11,<3.15}" $environment
    uv pip install --quiet --python $environment --require-hashes -r requirements.lock
    uv pip install --quiet --python $environment --no-deps -e .
  else
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11} none; do
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
    [ "$python" != none ] || { echo "Install Python 3.11 or newer first." >&2; exit 1; }
    echo "Making $environment with pip; this takes a minute or two."
    "$python" -m venv $environment
    $environment/bin/python -m pip install --quiet --require-hashes -r requirements.lock
    $environment/bin/python -m pip install --quiet --no-deps -e .
  fi
  touch $environment/made
fi
source $environment/bin/activate
