# shellcheck shell=bash
# Sets up the virtual environment .venv if it is missing or its requirements changed.
# Sourced by the other launchers, from the repository's root; PYTHON names another interpreter.

# On a CPU every call of a program takes its buffers from malloc and gives them back. In pages of
# 2 MiB (Linux, glibc 2.35 or later) most page faults are saved: a tenth of a train step's time.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

# pip would compile all modules of all packages, which takes as long as the rest of its work; Python
# compiles those that are imported, if it may keep them.
unset PYTHONDONTWRITEBYTECODE

python="${PYTHON:-}"
if [[ -z "$python" ]]; then
  for candidate in python3.12 python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
      2>/dev/null; then
      python="$candidate"
      break
    fi
  done
fi
if [[ -z "$python" ]]; then
  echo "error: found no Python 3.11 or 3.12; name one by PYTHON=/path/to/python" >&2
  exit 2
fi

wanted="$("$python" --version) $(cat requirements.txt pyproject.toml | cksum)"
if [[ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]]; then
  echo "setting up .venv with $("$python" --version); this takes a few minutes the first time"
  "$python" -m venv --clear .venv
  # A line for each package: otherwise minutes pass in silence.
  .venv/bin/python -m pip install --no-compile --disable-pip-version-check --editable '.[test]' \
    | grep --line-buffered -oE '^(Collecting|Installing) [^ ]+'
  echo "$wanted" > .venv/installed
fi
