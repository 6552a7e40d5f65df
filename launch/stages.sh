# shellcheck shell=bash
# What the launchers that run stages share. Sourced by them, from the repository's root.

# stage CONFIG WORKDIR STAGE [OVERRIDES]
stage() {
  printf '\n== %s\n' "${*:3}"
  .venv/bin/python -m overfill_jax.main "$3" --config="configs/$1.py" --workdir="$2" "${@:4}"
}

# Every run has a folder of its own: what an earlier one left is moved aside, not overwritten.
fresh() {
  if [[ -e "$1" ]]; then
    mv "$1" "$1.$(date +%Y%m%d-%H%M%S)"
  fi
}

# experiment_on CONFIG FOLDER [OVERRIDES]: of data that lies in FOLDER, which the config calls
# {workdir}/text
experiment_on() {
  local workdir="runs/$1"
  mkdir -p "$workdir"
  ln -sfn "$2" "$workdir/text"
  stage "$1" "$workdir" experiment "${@:3}"
}
