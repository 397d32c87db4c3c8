#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# GRPO on counting: Qwen2-VL-2B on CLEVR (`r1-mllm data prepare counting`).
# Variables: GPUS (what is there) BATCH_SIZE (16 prompts) PER_DEVICE_BATCH_SIZE NUM_GENERATIONS (8) GRADIENT_ACC MODEL
# DATASET IMAGE_ROOT OUTPUT_DIR NNODES NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS (0); flags after the script's name
# win over those below.
# Without a GPU, and with nothing given, it trains a small model on rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

embedded_default counting "$@"
set_up
defaults 1
MODEL=${MODEL:-Qwen/Qwen2-VL-2B-Instruct}
DATASET=${DATASET:-data/Counting/clevr_cogen_a_train}
IMAGE_ROOT=${IMAGE_ROOT:-data/Counting}
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2-VL-2B-GRPO-Counting_${GPUS}GPUS}

train counting \
    --max_prompt_length 512 --max_completion_length 512 --max_steps 100 --num_train_epochs 1 --temperature 0.9 \
    --max_pixels 401408 --freeze_vision False --recompute True --bf16 "$precision" --fp16 False \
    --logging_steps 1 --report_to visualdl --save_steps 100 --save_total_limit 1 "$@"
