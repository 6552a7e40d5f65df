#!/usr/bin/env bash
# A workload on TPUs of a GKE cluster that xpk has made.
#
#   bash launch/gke.sh --cluster=CLUSTER --workload=NAME --tpu-type=v5litepod-16 [--dry-run] \
#     -- train --config=configs/NAME.py --workdir=/mnt/runs/NAME
#
# Options go to `xpk workload create` (--zone=..., --num-slices=...). The code is put on the image
# --base-docker-image=..., or comes with --docker-image=... of your own, in its working directory.
# The workdir lies on storage of the cluster (`xpk storage attach --mount-point=/mnt/runs`).
# A workload that is preempted saves and ends, and is started again up to --max-restarts times.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/job.sh

read_arguments "$@"
cluster="$(option cluster)"
workload="$(option workload)"
option tpu-type > /dev/null
require_job
require_shared_workdir

tree="runs/launch/tree"
code=()
if ! given docker-image; then
  code=(--base-docker-image=python:3.12 --script-dir="$tree")
  pack runs/launch/tree.tar.gz
  run rm -rf "$tree"
  run mkdir "$tree"
  run tar --extract --gzip --file=runs/launch/tree.tar.gz --directory="$tree"
fi
# exec: SIGTERM must reach Python, not a shell around it.
command="pip install --quiet --editable . 'jax[tpu]' && exec python -m overfill_jax.main"
command+=" $(quoted "${job[@]}") --coordinator=auto --preempted_status=$preempted"
run xpk workload create --max-restarts=100 --restart-on-exit-codes="$preempted" \
  --termination-grace-period-seconds=120 "${code[@]}" "${options[@]}" --command="${command//\$/\$\$}" # Kubernetes makes one of two

cat << END
output:  kubectl logs --follow --selector=xpk.google.com/workload=$workload --prefix
end it:  xpk workload delete --cluster=$cluster --workload=$workload
END
