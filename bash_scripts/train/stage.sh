#!/usr/bin/env bash
# One stage of the cooperative training plan (docs/cyl/multi_car_training_plan.md). Each starts from the one before.
#
# usage: bash bash_scripts/train/stage.sh STAGE [NUM_GPUS] [key=value ...]
#
# STAGE      1  one vehicle, one panorama: range and mask
#            2  two vehicles: their poses, always as many
#            3  two to four vehicles
# NUM_GPUS   as bash_scripts/train/opv2v_cyl_coop.sh
# key=value  Hydra overrides; they win over the stage's own
#
# machine=demo adds a model, a schedule and a picture size that suit a CPU (minutes per stage).
# Runs go to ${COOP3D_STAGES_ROOT:-${COOP3D_EXPERIMENTS_ROOT:-outputs}/stages}/stage<N>; stage 2 and 3 start from the
# best checkpoint of the stage before, unless model.model_config.pretrained_checkpoint_path says otherwise.

source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
source bash_scripts/train/plan.sh
stage="${1:-}"
stage_overrides "$stage"
shift
number=()
if [[ $# -gt 0 && "$1" != *=* ]]; then number=("$1"); shift; fi

overrides+=("hydra.job.name=stage$stage")
if [[ " $* " == *" machine=demo "* ]]; then
  overrides+=(model=tiny train_params=demo dataset.camera.width=504 dataset.camera.height=126)
else
  overrides+=(machine=local3090 model=mapanything train_params=opv2v_cyl_coop)
fi
if ((stage > 1)) && [[ " $*" != *" $start="* ]]; then
  before="$stages_root/stage$((stage - 1))/checkpoint-best.pth"
  if [[ ! -f "$before" ]]; then
    echo "$before does not exist: run stage $((stage - 1)) first, or pass $start=/path/to/weights." >&2
    exit 2
  fi
  overrides+=("$start=$before")
fi

given=() # of them, those whose key the caller does not set
for default in "${overrides[@]}"; do
  [[ " $*" == *" ${default%%=*}="* ]] || given+=("$default")
done
exec bash bash_scripts/train/opv2v_cyl_coop.sh ${number[@]+"${number[@]}"} "${given[@]}" "$@"
