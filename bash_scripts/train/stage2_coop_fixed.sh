#!/usr/bin/env bash
# Stage 2 of docs/cyl/multi_car_training_plan.md; arguments: [NUM_GPUS] [key=value ...], see stage.sh --help.
exec bash "$(dirname "${BASH_SOURCE[0]}")/stage.sh" 2 "$@"
