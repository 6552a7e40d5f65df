#!/usr/bin/env bash
# The main job: the paper from end to end on tasks of its own making, in minutes and without a GPU.
#
#   bash launch/quickstart.sh [--from-scratch] [--seed=N]
#
# --from-scratch first trains the tiny full model that otherwise comes with the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

seed=0
from_scratch=false
for argument in "$@"; do
  case "$argument" in
    --seed=*) seed="${argument#*=}" ;;
    --from-scratch) from_scratch=true ;;
    *)
      echo "error: unknown argument '$argument'; expected --from-scratch or --seed=N" >&2
      exit 2
      ;;
  esac
done

source launch/environment.sh
source launch/stages.sh

# Trains the tiny full model from random weights and leaves it as a Hugging Face folder.
pretrain() {
  for name in data init train; do
    stage quickstart_pretraining "$1" "$name"
  done
  rm -r "$1/full"
  mv "$1/baselines/full_tuned" "$1/full"
  for name in evaluate export; do
    stage quickstart_pretraining "$1" "$name"
  done
}

workdir="runs/quickstart"
model="launch/quickstart_model"
fresh "$workdir"
if [[ "$from_scratch" == true ]]; then
  fresh "$workdir.pretraining"
  pretrain "$workdir.pretraining"
  model="$workdir.pretraining/hf"
fi

run() {
  stage quickstart "$workdir" "$1" --config.seed="$seed" "${@:2}"
}
run data
run convert --config.convert.source="$model"
run calibrate
run prune
run train
run train --config.train.method=pruned
run train --config.train.method=scratch
run export
grep --max-count=5 . "$workdir/data/test.jsonl" > "$workdir/questions.jsonl"
run generate --config.generate.prompts="{workdir}/questions.jsonl"
run evaluate
run report
