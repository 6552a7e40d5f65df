# shellcheck shell=bash
# What the launchers of jobs share. Sourced by them, from the repository's root.
#
# They take options of their own, then `--` and what `python -m overfill_jax.main` takes: a stage,
# --config=, --workdir= and overrides. With --dry-run they print their commands and run none.

exec 3>&1 # where commands are shown, also while their output is captured
dry_run=false
options=()
job=()

# Exit status of a run that saved and ended on SIGTERM: EX_TEMPFAIL, which no signal gives, as it
# does 143. What a signal ended has not saved, and begun again it might be ended again for ever.
# shellcheck disable=SC2034 # the launchers read it
preempted=75

refuse() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

if ((BASH_VERSINFO[0] < 5)); then
  refuse "found bash $BASH_VERSION, expected 5 or newer"
fi

# read_arguments "$@": into `dry_run`, `options` and `job`
read_arguments() {
  while (($#)) && [[ "$1" != -- ]]; do
    case "$1" in
      --dry-run) dry_run=true ;;
      --*) options+=("$1") ;;
      *) refuse "found '$1' before --, expected options; the stage comes behind it" ;;
    esac
    shift
  done
  job=("${@:2}")
}

# option NAME: the value of --NAME=VALUE, which must be there
option() {
  local each
  for each in "${options[@]}"; do
    if [[ "$each" == "--$1="?* ]]; then
      printf '%s' "${each#*=}"
      return
    fi
  done
  refuse "missing --$1=..."
}

# given NAME: whether --NAME or --NAME=VALUE is there
given() {
  local each
  for each in "${options[@]}"; do
    if [[ "$each" == "--$1" || "$each" == "--$1="* ]]; then
      return 0
    fi
  done
  return 1
}

# only NAMES: no other options are there
only() {
  local each name
  for each in "${options[@]}"; do
    name="${each%%=*}"
    if [[ " $* " != *" ${name#--} "* ]]; then
      refuse "unknown option $name, expected${*:+ ${*/#/--},} --dry-run or -- STAGE ..."
    fi
  done
}

# The stage, its config and its workdir must be there; the rest is for Python to judge.
require_job() {
  local name each
  if [[ "${job[0]:--}" == -* ]]; then
    refuse "missing -- STAGE --config=configs/NAME.py --workdir=DIR [--config.key=value ...]"
  fi
  for name in config workdir; do
    for each in "${job[@]:1}"; do
      if [[ "$each" == "--$name="?* ]]; then
        continue 2
      fi
    done
    refuse "missing --$name=... behind the stage '${job[0]}'"
  done
}

# Hosts meet in the workdir: a bucket, NFS or Lustre that each of them has mounted there.
require_shared_workdir() {
  local each
  for each in "${job[@]}"; do
    if [[ "$each" == --workdir=* && "$each" != --workdir=/* ]]; then
      refuse "found $each, expected the absolute path of storage that all hosts have mounted"
    fi
  done
}

# quoted WORDS: one line that a bash elsewhere reads as these words
quoted() {
  local line
  line="$(printf '%q ' "$@")"
  printf '%s' "${line% }"
}

# run COMMAND: shows it as it could be typed, then runs it, unless --dry-run was given
run() {
  local word line="+"
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./=:@%+,-]+$ ]]; then
      line+=" $word"
    else
      line+=" ${word@Q}"
    fi
  done
  printf '%s\n' "$line" >&3
  if [[ "$dry_run" == false ]]; then
    "$@"
  fi
}

# prepare EXTRA: the environment with jax for an accelerator
prepare() {
  run source launch/environment.sh
  run .venv/bin/python -m pip install --quiet --disable-pip-version-check "jax[$1]"
}

# pack FILE: the working tree as git knows it, what is ignored left out
pack() {
  run mkdir -p "$(dirname "$1")"
  run bash -c "set -o pipefail; git ls-files -z --cached --others --exclude-standard | \
tar --create --gzip --null --files-from=- --file=$1"
}
