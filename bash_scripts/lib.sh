# Sourced first by the scripts here: strict mode, --help, the checkout as working directory, steps with their time.
# The help of a script is the comment at its top, up to the first empty line.
# shellcheck shell=bash
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s (%d s since the start)\n' "$1" "$SECONDS"; }

# A proof: make a standard benchmark, stitch it, train on its training towns, score on the contract of its test towns.
# The arguments are those of the training script; the run goes to OUT/train.
prove() { # BENCHMARK CONTRACT ROOT PANORAMAS WIDTHxHEIGHT OUT ARGUMENTS...
  local name="$1" contract="$2" root="$3" panoramas="$4" size="$5" out="$6"
  shift 6

  step "1/5 environment"
  source bash_scripts/setup_env.sh

  step "2/5 make and verify $name"
  python scripts/make_synth_benchmark.py "$name" --output "$root" --workers "$(nproc)"

  step "3/5 stitch panoramas"
  python scripts/build_panorama_cache.py --images-root "$root" --depth-root "${root}_depth" \
    --split train validate test --output "$panoramas" --width "${size%x*}" --height "${size#*x}" --depth-source dense

  step "4/5 train (resumes where it stopped)"
  bash bash_scripts/train/opv2v_cyl_coop.sh "$@"
  python scripts/plot_training.py "$out/train" --output "$out/curves.png"

  step "5/5 evaluate on towns never seen, photographs only"
  python scripts/evaluate.py "checkpoint=$out/train/checkpoint-last.pth" "output_dir=$out/evaluation" scenes=3 \
    "frames_json=configs/contracts/$contract.json"

  step "done"
  cat "$out/evaluation/table.txt"
  echo "report: $out/evaluation/report.html, curves: $out/curves.png"
}
