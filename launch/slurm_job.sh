#!/usr/bin/env bash
# What launch/slurm.sh submits: a stage in every task of the allocation.
set -euo pipefail
source launch/job.sh # Slurm runs a copy of this script, in the folder that it was submitted from

# 0: the first to end on a notice would have the others killed, and the highest status is srun's. A
# process that fails takes the others along by itself.
status=0
run srun --kill-on-bad-exit=0 .venv/bin/python -m overfill_jax.main "$@" --coordinator=auto \
  --preempted_status="$preempted" || status=$?
if ((status == preempted)); then
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
