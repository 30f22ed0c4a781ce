# The three stages of docs/cyl/multi_car_training_plan.md, for the scripts that run or submit them; sourced.
# shellcheck shell=bash disable=SC2034
stages_root="${COOP3D_STAGES_ROOT:-${COOP3D_EXPERIMENTS_ROOT:-outputs}/stages}"
start=model.model_config.pretrained_checkpoint_path

stage_overrides() { # STAGE: sets overrides
  case "$1" in
    1) overrides=(dataset=opv2v_cyl_single loss=cyl_loss) ;;
    2) overrides=(dataset=opv2v_cyl_coop_ft dataset.train.sampling.vehicles=2 loss=coop_loss) ;;
    3) overrides=(dataset=opv2v_cyl_coop_ft loss=coop_loss) ;;
    *) echo "STAGE is '$1', expected 1, 2 or 3. See --help." >&2; return 2 ;;
  esac
  overrides+=("hydra.run.dir=$stages_root/stage$1")
}
