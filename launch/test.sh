#!/usr/bin/env bash
# Sets up the environment if needed and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# In their own order: sorted by number, the few long tests would come last, and one worker be idle.
exec .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
