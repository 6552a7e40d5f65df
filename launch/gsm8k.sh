#!/usr/bin/env bash
# GSM8K, from its files to loss and accuracy: a small full model, trained from scratch, then a decoder
# and the baselines. Without a GPU it takes hours; given again, the same command goes on where it
# was stopped.
#
#   bash launch/gsm8k.sh FOLDER [--config.KEY=VALUE ...]    # of train.jsonl and test.jsonl
set -euo pipefail
text="$(realpath "${1:?expected the folder with train.jsonl and test.jsonl}")"
cd "$(dirname "$0")/.."
source launch/environment.sh
source launch/stages.sh
experiment_on gsm8k "$text" "${@:2}"
