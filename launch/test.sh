#!/usr/bin/env bash
# Sets up the environment if needed and runs the tests: all but the slow and the long ones; with
# --all those, too. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
if [[ $# == 0 ]]; then
  set -- -m "not slow and not long"
elif [[ "$1" == --all ]]; then
  shift
fi
# In their own order: sorted by number, the few long tests would come last, and one worker be idle.
exec .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
