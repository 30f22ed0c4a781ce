#!/usr/bin/env bash
# The ablations of docs/results.md: which choices of data, model and loss matter for cooperative pose. Small panoramas
# (256 x 64) of coop3d-synth-v1-small, equal steps for every arm, three seeds, paired intervals.
#
# usage: bash bash_scripts/ablations.sh [STUDY...] [-- options of scripts/run_study.py and overrides]
#
# Studies: panoramas, training, supervision, optimizer (all of them when none is named). Makes the data and the panorama
# caches first. Run it again to resume.
#   bash bash_scripts/ablations.sh panoramas
#   bash bash_scripts/ablations.sh training -- --only base,no_wrap --jobs 2
#
# environment:
#   COOP3D_STUDY_DIR         where the studies go (default: outputs/studies)
#   COOP3D_SYNTH_SMALL_ROOT  where the data go (default: data/coop3d_synth_v1_small)

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
studies=()
while (($#)); do
  case "$1" in
    --) shift; break ;;
    panoramas | training | supervision | optimizer) studies+=("$1"); shift ;;
    *) echo "unknown study '$1'; expected panoramas, training, supervision or optimizer. See --help." >&2; exit 2 ;;
  esac
done
((${#studies[@]})) || studies=(panoramas training supervision optimizer)

export COOP3D_SYNTH_SMALL_ROOT="${COOP3D_SYNTH_SMALL_ROOT:-data/coop3d_synth_v1_small}"
root="$COOP3D_SYNTH_SMALL_ROOT"

source bash_scripts/setup_env.sh
python scripts/make_synth_benchmark.py coop3d-synth-v1-small --output "$root"

cache() { # NAME OPTIONS...: data/..._panoramas_256x64/NAME/SPLIT.h5
  python scripts/build_panorama_cache.py --images-root "$root" --depth-root "${root}_depth" \
    --output "${root}_panoramas_256x64/$1" --width 256 --height 64 "${@:2}"
}
every=(--split train validate test --depth-source dense)
cache rig "${every[@]}"
for study in "${studies[@]}"; do
  case "$study" in
    panoramas)
      for kind in central central_infinite first_stitch; do cache "$kind" "${every[@]}" --kind "$kind"; done ;;
    supervision)
      cache fused_lidar --split train --depth-source fused
      cache own_lidar --split train --depth-source lidar ;;
  esac
done

for study in "${studies[@]}"; do
  python scripts/run_study.py "study=configs/studies/$study.yaml" \
    "output_dir=${COOP3D_STUDY_DIR:-outputs/studies}/$study" "$@"
done
