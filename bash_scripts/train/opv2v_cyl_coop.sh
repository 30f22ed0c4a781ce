#!/usr/bin/env bash
# Fine-tune on cooperative panoramas: one process per GPU, or CPU processes where there is no GPU.
#
# usage: bash bash_scripts/train/opv2v_cyl_coop.sh [NUM_GPUS] [key=value ...]
#
# NUM_GPUS   processes to start, one per GPU. Default: all visible GPUs, or 1 process on the CPU without any.
#            Where there is no GPU it is the number of CPU processes.
# key=value  Hydra overrides of configs/train.yaml, for example
#              machine=demo dataset=opv2v_cyl_coop_demo model=tiny loss=cyl_loss train_params=demo
#              machine=local3090 model=mapanything dataset=opv2v_cyl_coop_ft train_params=opv2v_cyl_coop
#              hydra.run.dir=outputs/my_run     (an existing run directory resumes from its last checkpoint)
#              distributed=fsdp                 (shard weights and optimiser state over the GPUs)
#              preflight.wait_for_free=120      (wait up to 120 minutes for busy GPUs)
#
# Environment: CUDA_VISIBLE_DEVICES which GPUs; OPV2V_ROOT and OPV2V_DEPTH_ROOT the data (machine=local3090);
# COOP3D_EXPERIMENTS_ROOT where runs go; OMP_NUM_THREADS threads per process.

source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
num_processes=""
case "${1:-}" in
  "" | *=*) ;;
  *[!0-9]* | 0) echo "NUM_GPUS is '$1', expected a number of at least 1. See --help." >&2; exit 2 ;;
  *) num_processes="$1"; shift ;;
esac
source bash_scripts/setup_env.sh

num_gpus="$(python -c 'import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)')"
if ((num_gpus > 0)); then
  num_processes="${num_processes:-$num_gpus}"
  if ((num_processes > num_gpus)); then
    echo "NUM_GPUS=$num_processes, but only $num_gpus are visible. Ask for fewer, or check CUDA_VISIBLE_DEVICES." >&2
    exit 2
  fi
else
  num_processes="${num_processes:-1}"
  cores="$(nproc)"
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > num_processes ? cores / num_processes : 1))}"
  # Without these the C library hands every large tensor back to the system, which maps the next one page by page.
  export MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"
  export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-lo}" # one machine: no need to resolve its name
  echo "No GPU is visible: training on the CPU with $num_processes process(es)." >&2
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
# Steps with 2 to 7 vehicles leave gaps of many sizes, which fixed segments of a nearly full card cannot join.
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"

# All processes must agree on the run directory, whose default name holds the time.
COOP3D_RUN_STAMP="${COOP3D_RUN_STAMP:-$(date +%Y-%m-%d_%H-%M-%S)}"
export COOP3D_RUN_STAMP

# torchrun that passes SIGTERM and SIGUSR1 on and then ends with status 0, the run saved.
exec python -m coop3d.training.torchrun --standalone --nproc-per-node "$num_processes" scripts/train.py "$@"
