#!/usr/bin/env bash
# Proof that cooperative pose is learned from photographs alone: make the benchmark coop3d-synth-v1-small, train
# model=small on its training towns, score it on its test towns. Half an hour to an hour on two CPU cores.
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
#   COOP3D_PROOF_DIR         where the run and its scores go (default: outputs/cpu_proof)
#   COOP3D_SYNTH_SMALL_ROOT  where the data go (default: data/coop3d_synth_v1_small)

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
out="${COOP3D_PROOF_DIR:-outputs/cpu_proof}"
root="${COOP3D_SYNTH_SMALL_ROOT:-data/coop3d_synth_v1_small}"
prove coop3d-synth-v1-small "$root" "${root}_panoramas" 512x128 "$out" \
  1 machine=synth_small dataset=opv2v_cyl_coop_small model=small loss=match_loss train_params=small \
  "hydra.run.dir=$out/train" "$@"
