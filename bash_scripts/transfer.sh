#!/usr/bin/env bash
# Rehearsal of fine-tuning published weights to another domain: weights trained on the towns of coop3d-synth-v1-small
# are fine-tuned on coop3d-synth-v1-outskirts-small with every preset, and evaluated on both. Eight runs per seed, each
# of five to eight minutes of one CPU core.
#
# usage: bash bash_scripts/transfer.sh [options of scripts/run_study.py and overrides...]
#
# Makes both data sets and their panoramas, then runs configs/studies/transfer.yaml: gain on the new domain, forgetting
# on the old one, trained parameters, time and memory of each preset. Run it again to resume.
#   bash bash_scripts/transfer.sh --only none,full,heads,scratch
#   bash bash_scripts/transfer.sh --jobs 2
#   bash bash_scripts/transfer.sh model.model_config.pretrained_checkpoint_path=RUN/checkpoint-last.pth
#
# environment:
#   COOP3D_STUDY_DIR             where the study goes, as .../transfer (default: outputs/studies)
#   COOP3D_SYNTH_SMALL_ROOT      where the data of the towns go (default: data/coop3d_synth_v1_small)
#   COOP3D_SYNTH_OUTSKIRTS_ROOT  where those of the outskirts go (default: data/coop3d_synth_v1_outskirts_small)

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export COOP3D_SYNTH_SMALL_ROOT="${COOP3D_SYNTH_SMALL_ROOT:-data/coop3d_synth_v1_small}"
export COOP3D_SYNTH_OUTSKIRTS_ROOT="${COOP3D_SYNTH_OUTSKIRTS_ROOT:-data/coop3d_synth_v1_outskirts_small}"

source bash_scripts/setup_env.sh

prepare() { # BENCHMARK ROOT SPLITS...: the data, and panoramas of these splits
  python scripts/make_synth_benchmark.py "$1" --output "$2" --only "${@:3}"
  python scripts/build_panorama_cache.py --images-root "$2" --depth-root "${2}_depth" --split "${@:3}" \
    --output "${2}_panoramas" --width 512 --height 128 --depth-source dense
}
prepare coop3d-synth-v1-small "$COOP3D_SYNTH_SMALL_ROOT" test # the weights know the rest
prepare coop3d-synth-v1-outskirts-small "$COOP3D_SYNTH_OUTSKIRTS_ROOT" train validate test

python scripts/run_study.py study=configs/studies/transfer.yaml \
  "output_dir=${COOP3D_STUDY_DIR:-outputs/studies}/transfer" "$@"
