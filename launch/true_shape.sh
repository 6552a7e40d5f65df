#!/usr/bin/env bash
# Makes a Llama-3.2-1B-shaped Hugging Face folder of random weights and takes it through convert,
# calibrate, prune and generate; each stage prints its time and peak memory. Needs 12 GiB of memory
# and 8 GiB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh

workdir="runs/true_shape"
rm -rf "$workdir"
for name in data init export convert calibrate prune generate; do
  printf '\n== %s\n' "$name"
  .venv/bin/python -m overfill_jax.main "$name" --config=configs/true_shape.py --workdir="$workdir"
  if [[ "$name" == export ]]; then
    rm -r "$workdir/full" # convert reads the Hugging Face folder alone
  fi
done
