#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One stage of a curriculum alone: open questions, from stage 2's last checkpoint.
# Flags as Curr-ReFT's scripts have them (docs/curriculum.md); they win over what stands below.
# Variables: GPUS (what is there) MODEL DATASET IMAGE_ROOT OUTPUT_DIR NUM_GENERATIONS (4) NNODES NODE_RANK MASTER_ADDR
# MASTER_PORT RESTARTS (0).
# Without a GPU, and with nothing given, it runs the embedded curriculum up to this stage.
set -eu
. "$(dirname -- "$0")/common.sh"

embedded_stage open "$@"
set_up
NUM_GENERATIONS=${NUM_GENERATIONS:-4}
BATCH_SIZE=1
defaults 1
MODEL=${MODEL:-work_dirs/Qwen2.5-VL-3B-Curriculum/choice}
DATASET=${DATASET:-$root/configs/data/curriculum_open.yaml}
IMAGE_ROOT=${IMAGE_ROOT:-data/curriculum/grpo_data/images}
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2.5-VL-3B-Curriculum/open}

train_stage open \
    --max_prompt_length 2048 --max_completion_length 256 --num_train_epochs 2 --soft_iou False \
    --bf16 "$precision" --logging_steps 1 --save_steps 100 --data_seed 42 "$@"
