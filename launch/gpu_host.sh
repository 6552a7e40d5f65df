#!/usr/bin/env bash
# One host: sets up the environment if needed and runs a stage on all its GPUs.
#
#   bash launch/gpu_host.sh [--dry-run] -- train --config=configs/NAME.py --workdir=runs/NAME
#
# On SIGTERM, training saves and ends; the same command goes on from there.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/job.sh

read_arguments "$@"
# shellcheck disable=SC2119 # none at all
only
require_job
prepare cuda12
run exec .venv/bin/python -m overfill_jax.main "${job[@]}"
