#!/usr/bin/env bash
# Submit the three stages of docs/cyl/multi_car_training_plan.md, each after the one before has succeeded.
# Usage: bash bash_scripts/slurm/stages.sh [key=value ...]   (overrides for all stages; run from the checkout)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root="${COOP3D_STAGES_ROOT:-${COOP3D_EXPERIMENTS_ROOT:-outputs}/stages}"
start=model.model_config.pretrained_checkpoint_path

job="$(sbatch --parsable bash_scripts/slurm/train.sbatch dataset=opv2v_cyl_single loss=cyl_loss \
  "hydra.run.dir=$root/stage1" "$@")"
echo "stage 1: job $job"
job="$(sbatch --parsable --dependency="afterok:$job" bash_scripts/slurm/train.sbatch dataset=opv2v_cyl_coop_ft \
  dataset.train.sampling.vehicles=2 loss=coop_loss "hydra.run.dir=$root/stage2" "$@" \
  "$start=$root/stage1/checkpoint-best.pth")"
echo "stage 2: job $job"
job="$(sbatch --parsable --dependency="afterok:$job" bash_scripts/slurm/train.sbatch dataset=opv2v_cyl_coop_ft \
  loss=coop_loss "hydra.run.dir=$root/stage3" "$@" "$start=$root/stage2/checkpoint-best.pth")"
echo "stage 3: job $job"
