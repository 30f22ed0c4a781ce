#!/usr/bin/env bash
# Proof that cooperative pose is learned from photographs alone: make the benchmark coop3d-synth-v1-small, train
# model=small on its training towns, score it on its test towns. About an hour on two CPU cores.
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
run="$out/train"
root="${COOP3D_SYNTH_SMALL_ROOT:-data/coop3d_synth_v1_small}"

step "1/5 environment"
source bash_scripts/setup_env.sh

step "2/5 make and verify coop3d-synth-v1-small (400 training, 16 validation, 48 test towns)"
python scripts/make_synth_benchmark.py coop3d-synth-v1-small --output "$root"

step "3/5 stitch panoramas"
python scripts/build_panorama_cache.py --images-root "$root" --depth-root "${root}_depth" \
  --split train validate test --output "${root}_panoramas" --width 512 --height 128 --depth-source dense

step "4/5 train (resumes where it stopped)"
bash bash_scripts/train/opv2v_cyl_coop.sh 1 machine=synth_small dataset=opv2v_cyl_coop_small model=small \
  loss=match_loss train_params=small "hydra.run.dir=$run" "$@"

python scripts/plot_training.py "$run" --output "$out/curves.png"

step "5/5 score on towns never seen, photographs only"
python scripts/evaluate.py "checkpoint=$run/checkpoint-last.pth" "output_dir=$out/evaluation" scenes=3 \
  frames_json=configs/contracts/coop3d-synth-v1-small-test-nearest.json

step "done"
cat "$out/evaluation/table.txt"
echo "report: $out/evaluation/report.html, curves: $out/curves.png"
