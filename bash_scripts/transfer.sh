#!/usr/bin/env bash
# Rehearsal of fine-tuning published weights to another domain: weights trained on the towns of coop3d-synth-v1-small
# are fine-tuned on coop3d-synth-v1-outskirts-small with every preset, and scored on both. A step costs what it costs
# in bash_scripts/cpu_proof.sh: some five minutes per run on two CPU cores, eight runs per seed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'EOT'
usage: bash bash_scripts/transfer.sh [options of scripts/run_study.py and overrides...]

Makes both data sets and their panoramas, then runs configs/studies/transfer.yaml: gain on the new domain, forgetting on
the old one, trained parameters, time and memory of each preset. Run again, it goes on where it stopped.
  bash bash_scripts/transfer.sh --only none,full,heads,scratch
  bash bash_scripts/transfer.sh --jobs 2
  bash bash_scripts/transfer.sh model.model_config.pretrained_checkpoint_path=RUN/checkpoint-last.pth

environment:
  COOP3D_STUDY_DIR             where the study goes, as .../transfer (default: outputs/studies)
  COOP3D_SYNTH_SMALL_ROOT      where the data of the towns go (default: data/coop3d_synth_v1_small)
  COOP3D_SYNTH_OUTSKIRTS_ROOT  where those of the outskirts go (default: data/coop3d_synth_v1_outskirts_small)
EOT
}
if [[ "${1:-}" == "-h" || "${1:-}" == "--help" ]]; then
  usage
  exit 0
fi

export COOP3D_SYNTH_SMALL_ROOT="${COOP3D_SYNTH_SMALL_ROOT:-data/coop3d_synth_v1_small}"
export COOP3D_SYNTH_OUTSKIRTS_ROOT="${COOP3D_SYNTH_OUTSKIRTS_ROOT:-data/coop3d_synth_v1_outskirts_small}"

bash bash_scripts/setup_env.sh
export PATH="$PWD/.venv/bin:$PATH" # not its activate, which names the place where it was made

prepare() { # BENCHMARK ROOT SPLITS...: the data, and panoramas of these splits
  local name="$1" root="$2" split
  shift 2
  python scripts/make_synth_benchmark.py "$name" --output "$root" --only "$@"
  for split in "$@"; do
    python scripts/build_panorama_cache.py --images-root "$root" --depth-root "${root}_depth" --split "$split" \
      --output "${root}_panoramas/$split.h5" --width 512 --height 128 --depth-source dense
  done
}
prepare coop3d-synth-v1-small "$COOP3D_SYNTH_SMALL_ROOT" test # the weights know the rest
prepare coop3d-synth-v1-outskirts-small "$COOP3D_SYNTH_OUTSKIRTS_ROOT" train validate test

python scripts/run_study.py study=configs/studies/transfer.yaml \
  "output_dir=${COOP3D_STUDY_DIR:-outputs/studies}/transfer" "$@"
