#!/usr/bin/env bash
# Multi30k, German to English, from parallel text to BLEU: a small full model, trained from scratch,
# then for each of three seeds a decoder and the baselines. Without a GPU it takes hours; given
# again, the same command goes on where it was stopped.
#
#   bash launch/multi30k.sh FOLDER [--config.KEY=VALUE ...]    # of train, val, test_2016_flickr
set -euo pipefail
text="$(realpath "${1:?expected the folder with train, val and test_2016_flickr in .de and .en}")"
cd "$(dirname "$0")/.."
source launch/environment.sh
source launch/stages.sh
experiment_on multi30k "$text" "${@:2}"
