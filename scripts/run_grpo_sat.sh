#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# GRPO on spatial reasoning: the base model Qwen2-VL-2B on SAT (scripts/prepare_sat.sh), asked in the R1-Zero form.
# Variables: GPUS (what is there) BATCH_SIZE (8 prompts) PER_DEVICE_BATCH_SIZE NUM_GENERATIONS (8) GRADIENT_ACC MODEL
# DATASET IMAGE_ROOT OUTPUT_DIR NNODES NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS (0); flags after the script's name
# win over those below.
# Without a GPU, and with nothing given, it trains a small model on rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

embedded_default spatial "$@"
set_up
BATCH_SIZE=${BATCH_SIZE:-8}
defaults 1
MODEL=${MODEL:-Qwen/Qwen2-VL-2B}
DATASET=${DATASET:-$root/configs/sat.yaml}
IMAGE_ROOT=${IMAGE_ROOT:-data/SAT}
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2-VL-2B-GRPO-SAT_${GPUS}GPUS}

train sat \
    --chat_template r1_zero --max_prompt_length 1024 --max_completion_length 700 --num_train_epochs 2 \
    --max_pixels 401408 --freeze_vision False --recompute True --bf16 "$precision" --fp16 False \
    --logging_steps 1 --report_to visualdl --save_steps 100 --save_total_limit 1 "$@"
