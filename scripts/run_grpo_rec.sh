#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# GRPO on referring expressions: Qwen2.5-VL-3B on the REC data (`r1-mllm data prepare rec`).
# Variables: GPUS (what is there) BATCH_SIZE (16 prompts) PER_DEVICE_BATCH_SIZE NUM_GENERATIONS (8) GRADIENT_ACC MODEL
# DATASET IMAGE_ROOT OUTPUT_DIR NNODES NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS (0); flags after the script's name
# win over those below.
# Without a GPU, and with nothing given, it trains a small model on rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

embedded_default rec "$@"
set_up
defaults 2
MODEL=${MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}
DATASET=${DATASET:-$root/configs/rec.yaml}
IMAGE_ROOT=${IMAGE_ROOT:-data/REC}
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2.5-VL-3B-GRPO-REC_${GPUS}GPUS}

train rec \
    --max_prompt_length 1024 --max_completion_length 256 --max_steps 500 --num_train_epochs 1 --temperature 0.9 \
    --freeze_vision False --recompute True --bf16 "$precision" --fp16 False \
    --logging_steps 1 --report_to visualdl --save_steps 100 --save_total_limit 1 "$@"
