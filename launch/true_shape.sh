#!/usr/bin/env bash
# Makes a Llama-3.2-1B-shaped Hugging Face folder of random weights and takes it through convert,
# calibrate, prune and generate; each stage prints its time and peak memory. Needs 12 GiB of memory
# and 8 GiB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
source launch/stages.sh

workdir="runs/true_shape"
rm -rf "$workdir" # gigabytes of random weights
for name in data init export; do
  stage true_shape "$workdir" "$name"
done
rm -r "$workdir/full" # convert reads the Hugging Face folder alone
for name in convert calibrate prune generate; do
  stage true_shape "$workdir" "$name"
done
