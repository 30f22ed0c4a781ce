#!/usr/bin/env bash
# Proof that cooperative pose is learned from photographs alone: make the benchmark coop3d-synth-v1-small-1200,
# train model=small on its 1200 training towns, score it on its 48 test towns. Half an hour to an hour on two CPU
# cores; 10 GB.
#
# usage: bash bash_scripts/cpu_proof.sh [overrides...]
#
# Extra arguments go to the training script, for example another seed or a shorter run:
#   bash bash_scripts/cpu_proof.sh train_params.seed=1
#   bash bash_scripts/cpu_proof.sh train_params.epochs=3
#
# Run it again to resume. docs/results.md lists the expected scores.
#
# environment:
#   COOP3D_PROOF_DIR              where the run and its scores go (default: outputs/cpu_proof)
#   COOP3D_SYNTH_SMALL_1200_ROOT  where the data go (default: data/coop3d_synth_v1_small_1200)

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
out="${COOP3D_PROOF_DIR:-outputs/cpu_proof}"
root="${COOP3D_SYNTH_SMALL_1200_ROOT:-data/coop3d_synth_v1_small_1200}"
prove coop3d-synth-v1-small-1200 coop3d-synth-v1-small-test-nearest "$root" "${root}_panoramas" 512x128 "$out" \
  1 machine=synth_small_1200 dataset=opv2v_cyl_coop_small model=small loss=match_loss train_params=small \
  "hydra.run.dir=$out/train" "$@"
