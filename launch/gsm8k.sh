#!/usr/bin/env bash
# GSM8K from a config.json to the report: a small full model, trained from scratch on the data that
# the decoder and the baselines then get as well. Without a GPU it takes about an hour.
#
#   bash launch/gsm8k.sh FOLDER    # that holds train.jsonl, test.jsonl and llama2.model
set -euo pipefail
data="$(realpath "${1:?expected the folder with train.jsonl, test.jsonl and llama2.model}")"
cd "$(dirname "$0")/.."
source launch/environment.sh
source launch/stages.sh

workdir="runs/gsm8k"
fresh "$workdir"
mkdir -p "$workdir"
ln -s "$data" "$workdir/data"

run() {
  stage gsm8k "$workdir" "$@"
}
run init
run train --config.train.method=full
run export --config.export.model=baselines/full_tuned --config.export.target=full_hf
rm -r "$workdir/full" "$workdir/baselines/full_tuned" # convert reads the Hugging Face folder alone
run convert
run calibrate
run prune
run train
run train --config.train.method=pruned
run train --config.train.method=scratch
run export
grep --max-count=5 . "$workdir/data/test.jsonl" > "$workdir/questions.jsonl"
run generate --config.generate.prompts="{workdir}/questions.jsonl"
run evaluate
