#!/usr/bin/env bash
# A Slurm job, one process for each GPU. To be run on the login node; this folder and the workdir
# lie on storage that all nodes share.
#
#   bash launch/slurm.sh --nodes=2 --gpus-per-node=8 --time=24:00:00 [--dry-run] \
#     -- train --config=configs/NAME.py --workdir=runs/NAME
#
# Options go to sbatch (--partition=..., --account=...). A job that is preempted or near its time
# limit saves and queues itself again, under the same number; `scancel` ends it for good.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/job.sh

read_arguments "$@"
option nodes > /dev/null
gpus="$(option gpus-per-node)" # a number, or TYPE:NUMBER
require_job
prepare cuda12
run sbatch --job-name=overfill_jax --ntasks-per-node="${gpus##*:}" --signal=TERM@300 --requeue \
  --open-mode=append "${options[@]}" launch/slurm_job.sh "${job[@]}"
