# Sourced first by the scripts here: strict mode, --help, the checkout as working directory, steps with their time.
# The help of a script is the comment at its top, up to the first empty line.
# shellcheck shell=bash
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s (%d s since the start)\n' "$1" "$SECONDS"; }
