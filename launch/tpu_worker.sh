#!/usr/bin/env bash
# What launch/tpu_pod.sh does on each worker of the pod.
#
#   tpu_worker.sh setup [COMMAND]  mounts the shared storage and installs
#   tpu_worker.sh start STAGE ...  starts the stage in the background, unless it is running
#   tpu_worker.sh tail             shows its output until it ends
#   tpu_worker.sh status           its exit status; fails while it is running
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/job.sh

setup() {
  if (($#)); then
    bash -c "$1"
  fi
  # The images come with a Python that is too old. In this folder uv would find .venv itself.
  python3 -m pip install --quiet --user uv
  "$HOME/.local/bin/uv" python install --quiet 3.12
  export PYTHON # for environment.sh
  PYTHON="$(cd / && "$HOME/.local/bin/uv" python find 3.12)"
  prepare tpu
}

start() {
  if [[ -e job.pid && ! -e job.status ]] && kill -0 "$(cat job.pid)" 2> /dev/null; then
    echo "already running"
    return
  fi
  rm -f job.status
  nohup bash launch/tpu_worker.sh work "$@" > job.log 2>&1 < /dev/null 3>&- &
  echo "$!" > job.pid
}

# The machine's shutdown sends SIGTERM to this shell, too; it stays for the status.
work() {
  local status=0 shared=(--preempted_status="$preempted")
  trap : TERM
  if [[ "$1" == train ]]; then
    shared=(--coordinator=auto "${shared[@]}")
  else
    export JAX_PLATFORMS=cpu
  fi
  .venv/bin/python -m overfill_jax.main "$@" "${shared[@]}" || status=$?
  echo "$status" > job.status
}

case "$1" in
  setup | start | work) "$1" "${@:2}" ;;
  tail) tail --lines=+1 --follow --pid="$(cat job.pid)" job.log ;;
  status) cat job.status ;;
esac
