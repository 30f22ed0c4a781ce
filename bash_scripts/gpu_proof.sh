#!/usr/bin/env bash
# The proof of bash_scripts/cpu_proof.sh at the size of GPUs: model=medium (44 M parameters) on panoramas of 1024 x 256,
# trained on the towns of coop3d-synth-v1, evaluated on its 64 test towns. The data take some 50 GB.
#
# usage: bash bash_scripts/gpu_proof.sh [--small] [NUM_GPUS] [overrides...]
#
# --small: the towns of coop3d-synth-v1-small-1200 instead, 13 GB. NUM_GPUS and the overrides go to
# bash_scripts/train/opv2v_cyl_coop.sh, for example
#   bash bash_scripts/gpu_proof.sh 10
#   bash bash_scripts/gpu_proof.sh 1 train_params.epochs=4 train_params.max_micro_batch=2
#   bash bash_scripts/gpu_proof.sh --small 1 train_params.epochs=8
#
# Run it again to resume. The settings are those of the CPU proof, scaled; no result on GPUs is published yet.
#
# environment:
#   COOP3D_PROOF_DIR              directory of the run and its scores (default: outputs/gpu_proof or
#                                 outputs/gpu_proof_small)
#   COOP3D_SYNTH_ROOT             directory of the data (default: data/coop3d_synth_v1)
#   COOP3D_SYNTH_SMALL_1200_ROOT  the same with --small (default: data/coop3d_synth_v1_small_1200)

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
name=coop3d-synth-v1 contract=coop3d-synth-v1-test-nearest machine=synth
run=gpu_proof root="${COOP3D_SYNTH_ROOT:-data/coop3d_synth_v1}"
panoramas="${root}_panoramas"
if [[ "${1:-}" == --small ]]; then
  name=coop3d-synth-v1-small-1200 contract=coop3d-synth-v1-small-test-nearest machine=synth_small_1200
  run=gpu_proof_small root="${COOP3D_SYNTH_SMALL_1200_ROOT:-data/coop3d_synth_v1_small_1200}"
  panoramas="${root}_panoramas_1024x256" # those of the CPU proof are smaller
  shift
fi
out="${COOP3D_PROOF_DIR:-outputs/$run}"
gpus=()
case "${1:-}" in
  "" | *=*) ;;
  *) gpus=("$1"); shift ;;
esac
prove "$name" "$contract" "$root" "$panoramas" 1024x256 "$out" \
  "${gpus[@]}" "machine=$machine" "machine.panorama_cache_root=$panoramas" dataset=opv2v_cyl_coop_medium model=medium \
  loss=match_loss train_params=medium "hydra.run.dir=$out/train" "$@"
