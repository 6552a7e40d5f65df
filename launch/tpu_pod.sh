#!/usr/bin/env bash
# A pod of TPU VMs, from the request to its return:
#
#   bash launch/tpu_pod.sh ACTION --name=POD --zone=ZONE [--project=PROJECT] [--dry-run] ...
#
#   create  asks for the pod and waits until it is there     --type=v5litepod-16 [--spot]
#   setup   copies this repository to all workers, installs  [--mount=COMMAND]
#   run     starts a stage, which goes on without this terminal: train on all workers, any other
#           stage on the processors of worker 0, for a part of a pod's TPUs cannot work alone
#             -- train --config=configs/NAME.py --workdir=/mnt/runs/NAME
#   tail    shows the output of worker 0 until the stage ends, and exits with its status
#   delete  gives the pod back
#   all     create, setup, run, tail; again whenever the pod is preempted, until the stage has
#           ended; then delete, unless it failed
#
# The workers meet in the workdir. COMMAND mounts its storage on each of them, where it is not:
#   --mount='mountpoint -q /mnt || sudo mount HOST:/SHARE /mnt'
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/job.sh

lost=255    # status of a connection that broke, as of ssh
patience=10 # connections to a pod that break one behind the other, until it is given up
worker=overfill_jax/launch/tpu_worker.sh

# tpus GROUP VERB ARGUMENTS
tpus() {
  run gcloud compute tpus "$@" "${place[@]}"
}

# on WORKERS COMMAND: a line of bash in their home folders
on() {
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

# Of the pod; empty if there is none.
state() {
  local found attempt
  for attempt in {1..10}; do
    if found="$(tpus queued-resources describe "$name" --format='value(state.state)' 2>&1)"; then
      printf '%s' "${found##*$'\n'}" # behind warnings
      return
    fi
    if [[ "$found" == *NOT_FOUND* ]]; then
      return
    fi
    sleep 30
  done
  printf 'error: no state of %s in %d attempts: %s\n' "$name" "$attempt" "$found" >&2
  return 1
}

runtime() {
  case "$1" in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) refuse "found --type=$1, expected v4-N, v5litepod-N, v5p-N or v6e-N" ;;
  esac
}

create() {
  local now seen="" spot=()
  if given spot; then
    spot=(--spot)
  fi
  tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$version" "${spot[@]}"
  while [[ "$dry_run" == false ]]; do
    now="$(state 3> /dev/null)"
    case "$now" in
      ACTIVE | SUSPEND*) return ;; # suspended: preempted before it was ours
      FAILED) refuse "$name: the request has failed; see gcloud compute tpus queued-resources" ;;
      "$seen") ;;
      *) printf '%s %s: %s\n' "$(date +%T)" "$name" "$now" ;;
    esac
    seen="$now"
    sleep 30
  done
}

setup() {
  local command=(bash "$worker" setup)
  if given mount; then
    command+=("$(option mount)")
  fi
  pack runs/launch/tree.tar.gz &&
    tpus tpu-vm scp runs/launch/tree.tar.gz "$name:tree.tar.gz" --worker=all &&
    on all "mkdir -p overfill_jax && tar -xzf tree.tar.gz -C overfill_jax && $(
      quoted "${command[@]}"
    )"
}

start() {
  local workers=all
  if [[ "${job[0]}" != train ]]; then
    workers=0
  fi
  on "$workers" "$(quoted bash "$worker" start "${job[@]}")"
}

follow() {
  local status
  on 0 "bash $worker tail" || true # may have broken; only the status tells
  status="$(on 0 "bash $worker status")" || return "$lost"
  return "$((status))"
}

delete() {
  tpus queued-resources delete "$name" --force --quiet
}

# attend STATE: sees the stage through, from where it stands on a pod of that state
attend() {
  local running=1
  if [[ "$1" == ACTIVE ]]; then
    running=0
    on 0 "bash $worker running" || running=$?
  fi
  case "$running" in
    0) # no setup, which would write over what is running; but some may not have been reached
      losses=0
      start || return
      ;;
    "$lost") return "$lost" ;;
    *) setup && start || return ;;
  esac
  follow
}

all() {
  local status now losses=0
  while true; do
    now="$(state)"
    if [[ "$now" != ACTIVE ]]; then
      if [[ -n "$now" ]]; then
        delete
      fi
      create
    fi
    status=0
    attend "$now" || status=$?
    if ((status == 0 || status == 2)); then
      break
    fi
    # Any other status may come of a pod that is being taken away, which shows within minutes.
    printf '%s: status %d; looking for the pod in two minutes\n' "$name" "$status"
    sleep 120
    if ((status == preempted)) || [[ "$(state)" != ACTIVE ]]; then
      losses=0 # they are of one pod
    elif ((status != lost || ++losses == patience)); then
      break
    fi
  done
  if ((status)); then
    printf 'error: status %d; %s is kept for a look, and costs until it is deleted: %s\n' \
      "$status" "$name" "bash launch/tpu_pod.sh delete $(quoted --name="$name" "${place[@]}")" >&2
    return "$status"
  fi
  delete
}

action="${1:-}"
read_arguments "${@:2}"
case "$action" in
  create | setup | run | tail | delete | all) ;;
  *) refuse "found action '$action', expected create, setup, run, tail, delete or all" ;;
esac
only name zone project type spot mount
name="$(option name)"
place=(--zone="$(option zone)")
if given project; then
  place+=(--project="$(option project)")
fi
if [[ "$action" == run || "$action" == all ]]; then
  require_job
  require_shared_workdir
fi
if [[ "$action" == create || "$action" == all ]]; then
  type="$(option type)"
  version="$(runtime "$type")"
fi
case "$action" in
  run) start ;;
  tail) follow ;;
  *) "$action" ;;
esac
