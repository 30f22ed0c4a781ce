#!/usr/bin/env bash
# From nothing to a point cloud in the browser: set up, make synthetic OPV2V, check it, look at a panorama, train the
# small model, evaluate it on towns it never saw, render the page; and the page of the published weights, which have
# trained longer. Nine minutes to half an hour on two CPU cores.
#
# usage: bash bash_scripts/quickstart.sh [overrides...]
#
# Extra arguments are passed to the training script, for example a shorter run:
#   bash bash_scripts/quickstart.sh train_params.epochs=1
#
# environment:
#   COOP3D_QUICKSTART_DIR  where run and pictures go (default: outputs/quickstart)
#   COOP3D_DEMO_ROOT       where the synthetic data go (default: data/demo_opv2v)

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
out="${COOP3D_QUICKSTART_DIR:-outputs/quickstart}"
run="$out/train"
demo=(machine=demo dataset=opv2v_cyl_coop_small dataset.panoramas=raw dataset.train.sampling.vehicles=2
  model=small loss=match_loss train_params=small train_params.epochs=2)
published=weights/coop3d_small_synth_v1.pth

step "1/6 environment"
source bash_scripts/setup_env.sh

step "2/6 make and check synthetic OPV2V (training, validation and test towns differ)"
python scripts/validate_opv2v_cyl_setup.py --num-samples 3 --output "$out/validation.json" \
  --output-html "$out/validation.html" \
  --hydra-overrides "${demo[@]}"

step "3/6 preview panoramas"
images_root="${COOP3D_DEMO_ROOT:-data/demo_opv2v}"
python scripts/opv2v_panorama_preview.py --images-root "$images_root" --depth-root "${images_root}_depth" \
  --split test --index 0 --output-dir "$out/preview"

step "4/6 train (resumes where it stopped if you run this again)"
bash bash_scripts/train/opv2v_cyl_coop.sh 1 "${demo[@]}" "hydra.run.dir=$run" "$@"

step "5/6 evaluate on held-out towns, photographs only"
python scripts/evaluate.py "checkpoint=$run/checkpoint-best.pth" split=test "output_dir=$out/evaluation"

step "6/6 render point clouds: of this run, and of the published weights"
python scripts/render_pointcloud_html.py --checkpoint "$run/checkpoint-best.pth" --split test --index 12 \
  --output-html "$out/pointcloud.html" --output-png "$out/pointcloud.png"
python scripts/render_pointcloud_html.py --checkpoint "$published" --config "$run/config.yaml" --split test --index 12 \
  --output-html "$out/pointcloud_published.html" --output-png "$out/pointcloud_published.png"

step "done"
cat "$out/evaluation/table.txt"
cat <<EOF

open in a browser:
  $out/pointcloud.html                predicted and true point clouds
  $out/pointcloud.png                 the same as a picture, with true and predicted range
  $out/pointcloud_published.html      the same sample seen by the published weights (docs/results.md)
  $out/evaluation/report.html         scores with intervals, beside trivial and classical baselines
  $out/validation.html                what was checked of the data
  $out/preview/                       panoramas: colour, range, source camera, masks
  $out/evaluation/per_frame.csv       every number of every frame
  tensorboard --logdir $run           curves
EOF
