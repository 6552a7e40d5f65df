#!/usr/bin/env bash
# What launch/tpu_pod.sh does on each worker of the pod.
#
#   tpu_worker.sh setup [COMMAND]  mounts the shared storage and installs
#   tpu_worker.sh start STAGE ...  starts the stage in the background, unless it is running
#   tpu_worker.sh running          whether it is
#   tpu_worker.sh tail             shows its output until it ends
#   tpu_worker.sh status           its exit status; fails while it is running
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/job.sh

boot=/proc/sys/kernel/random/boot_id

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

# Of the process that was started last; nothing behind a reboot, where the number is another's.
pid() {
  local number booted
  if [[ -e job.pid ]]; then
    read -r number booted < job.pid
    if [[ "$booted" == "$(cat "$boot")" ]]; then
      echo "$number"
    fi
  fi
}

running() {
  [[ ! -e job.status ]] && kill -0 "$(pid)" 2> /dev/null
}

follow() {
  if running; then
    tail --lines=+1 --follow --pid="$(pid)" job.log
  else
    cat job.log
  fi
}

start() {
  if running; then
    echo "already running"
    return
  fi
  rm -f job.status
  nohup bash launch/tpu_worker.sh work "$@" > job.log 2>&1 < /dev/null 3>&- &
  echo "$! $(cat "$boot")" > job.pid
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
  setup | start | work | running) "$1" "${@:2}" ;;
  tail) follow ;;
  status) cat job.status ;;
esac
