#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Supervised fine-tuning on spatial reasoning: the base model Qwen2-VL-2B on SAT's right options, without thinking.
# Variables: GPUS (what is there) BATCH_SIZE (8 conversations) PER_DEVICE_BATCH_SIZE GRADIENT_ACC MODEL DATASET
# IMAGE_ROOT OUTPUT_DIR NNODES NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS (0); flags after the script's name win over
# those below.  DATASET's default is written from data/SAT/SAT_train.parquet (scripts/prepare_sat.sh) at the first run.
# Without a GPU, and with nothing given, it trains a small model on rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

unless_given $# "default (rendered spatial scenes, a small Qwen2.5-VL)" quickstart sft --task spatial
set_up
BATCH_SIZE=${BATCH_SIZE:-8}
defaults 1
MODEL=${MODEL:-Qwen/Qwen2-VL-2B}
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2-VL-2B-SFT-SAT_${GPUS}GPUS}
if [ -z "${DATASET:-}" ]; then
    DATASET=data/SAT/SAT_train_15000.jsonl
    if ! [ -e "$DATASET" ] && [ -e data/SAT/SAT_train.parquet ]; then
        "$python" -m r1_mllm data messages "$root/configs/sat.yaml" --image_root data/SAT --out "$DATASET"
    fi
fi

fine_tune \
    --max_length 1024 --max_pixels 401408 --learning_rate 2e-5 --num_train_epochs 2 --recompute True \
    --bf16 "$precision" --fp16 False --logging_steps 5 --report_to visualdl --save_steps 300 --save_total_limit 1 "$@"
