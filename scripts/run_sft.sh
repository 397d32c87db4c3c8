#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Supervised fine-tuning on conversations: Qwen2.5-VL-3B (docs/sft.md says which files are read).
# Variables: GPUS (what is there) BATCH_SIZE (32 conversations) PER_DEVICE_BATCH_SIZE GRADIENT_ACC MODEL DATASET
# IMAGE_ROOT OUTPUT_DIR NNODES NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS (0); flags after the script's name win over
# those below.  Adapters instead of all weights: --use_peft --learning_rate 1e-4.
# Without a GPU, and with nothing given, it trains a small model on rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

unless_given $# "default (rendered scenes, a small Qwen2.5-VL)" quickstart sft
set_up
BATCH_SIZE=${BATCH_SIZE:-32}
defaults 1
MODEL=${MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}
DATASET=${DATASET:-data/SFT_data/sft/train_cla_det_math_.jsonl}
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2.5-VL-3B-SFT_${GPUS}GPUS}

fine_tune \
    --max_length 8192 --max_pixels 401408 --learning_rate 1e-6 --warmup_ratio 0.05 --lr_scheduler_type cosine \
    --num_train_epochs 3 --freeze_vision True --recompute True --bf16 "$precision" --fp16 False \
    --logging_steps 5 --report_to visualdl --save_steps 100 --save_total_limit 2 "$@"
