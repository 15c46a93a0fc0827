#!/usr/bin/env bash
# From a fresh clone to a first result: MAML on sinusoids, no data needed.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir="runs/quickstart-$(date +%Y%m%d-%H%M%S)"
python -m experiments.few_shot --flagfile=experiments/presets/quickstart.flags \
  --workdir="$workdir" "$@"
echo "Written to $workdir; look at predictions.png there."
