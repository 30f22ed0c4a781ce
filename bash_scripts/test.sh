#!/usr/bin/env bash
# Set up, then check everything: lint, format, types, tests. Arguments go to pytest.
#   bash bash_scripts/test.sh                  all fast tests, two at a time
#   bash bash_scripts/test.sh -n 0 -k resume   some of them
#   bash bash_scripts/test.sh --help           print this and do nothing else
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source bash_scripts/setup_env.sh

step() { echo "== $*"; "$COOP3D_PYTHON" -m "$@"; }

step ruff check .
step ruff format --check .
step mypy
case " $* " in
  *" -n"* | *" --numprocesses"*) step pytest "$@" ;;
  *) step pytest -n 2 "$@" ;;
esac
