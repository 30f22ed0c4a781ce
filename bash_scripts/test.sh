#!/usr/bin/env bash
# Set up, then check everything: lint, format, types, tests. Arguments go to pytest.
#   bash bash_scripts/test.sh                  all fast tests, two at a time
#   bash bash_scripts/test.sh -n 0 -k resume   some of them
#   bash bash_scripts/test.sh --help           print this and do nothing else

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source bash_scripts/setup_env.sh

check() { echo "== $*"; python -m "$@"; }

check ruff check .
check ruff format --check .
check mypy
case " $* " in
  *" -n"* | *" --numprocesses"*) check pytest "$@" ;;
  *) check pytest -n 2 "$@" ;;
esac
