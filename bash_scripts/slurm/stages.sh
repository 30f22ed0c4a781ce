#!/usr/bin/env bash
# Submit the three stages of docs/cyl/multi_car_training_plan.md, each after the one before has succeeded.
#
# usage: bash bash_scripts/slurm/stages.sh [key=value ...]   (overrides for all stages; run from the checkout)

source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
source bash_scripts/train/plan.sh
options=(--parsable)
for stage in 1 2 3; do
  stage_overrides "$stage"
  overrides+=("$@")
  if ((stage > 1)); then
    overrides+=("$start=$stages_root/stage$((stage - 1))/checkpoint-best.pth")
    options=(--parsable "--dependency=afterok:$job")
  fi
  job="$(sbatch "${options[@]}" bash_scripts/slurm/train.sbatch "${overrides[@]}")"
  echo "stage $stage: job $job"
done
