#!/usr/bin/env bash
# One stage of the cooperative training plan (docs/cyl/multi_car_training_plan.md). Each starts from the one before.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: bash bash_scripts/train/stage.sh STAGE [NUM_GPUS] [key=value ...]

STAGE      1  one vehicle, one panorama: range and mask
           2  two vehicles: their poses, always as many
           3  two to four vehicles
NUM_GPUS   as bash_scripts/train/opv2v_cyl_coop.sh
key=value  Hydra overrides; they win over the stage's own

machine=demo adds a model, a schedule and a picture size that suit a CPU (minutes per stage).
Runs go to ${COOP3D_STAGES_ROOT:-${COOP3D_EXPERIMENTS_ROOT:-outputs}/stages}/stage<N>; stage 2 and 3 start from the
best checkpoint of the stage before, unless model.model_config.pretrained_checkpoint_path says otherwise.
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case "${1:-}" in
  1) defaults=(dataset=opv2v_cyl_single loss=cyl_loss) ;;
  2) defaults=(dataset=opv2v_cyl_coop_ft dataset.train.sampling.vehicles=2 loss=coop_loss) ;;
  3) defaults=(dataset=opv2v_cyl_coop_ft loss=coop_loss) ;;
  -h | --help) usage; exit 0 ;;
  *) echo "STAGE is '${1:-}', expected 1, 2 or 3. See --help." >&2; exit 2 ;;
esac
stage="$1"; shift
number=()
if [[ $# -gt 0 && "$1" != *=* ]]; then number=("$1"); shift; fi

root="${COOP3D_STAGES_ROOT:-${COOP3D_EXPERIMENTS_ROOT:-outputs}/stages}"
start=model.model_config.pretrained_checkpoint_path
defaults+=("hydra.run.dir=$root/stage$stage" "hydra.job.name=stage$stage")
if [[ " $* " == *" machine=demo "* ]]; then
  defaults+=(model=tiny train_params=demo dataset.camera.width=504 dataset.camera.height=126)
else
  defaults+=(machine=local3090 model=mapanything train_params=opv2v_cyl_coop)
fi
if ((stage > 1)) && [[ " $*" != *" $start="* ]]; then
  before="$root/stage$((stage - 1))/checkpoint-best.pth"
  if [[ ! -f "$before" ]]; then
    echo "$before does not exist: run stage $((stage - 1)) first, or pass $start=/path/to/weights." >&2
    exit 2
  fi
  defaults+=("$start=$before")
fi

given=() # defaults whose key the caller does not set
for default in "${defaults[@]}"; do
  [[ " $*" == *" ${default%%=*}="* ]] || given+=("$default")
done
exec bash bash_scripts/train/opv2v_cyl_coop.sh ${number[@]+"${number[@]}"} "${given[@]}" "$@"
