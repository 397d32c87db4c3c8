#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Rejection fine-tuning: sample answers to DATASET, keep the good ones, fine-tune MODEL on them (docs/evaluation.md).
# Variables: GPUS (what is there) BATCH_SIZE (32 conversations) PER_DEVICE_BATCH_SIZE GRADIENT_ACC NUM_GENERATIONS (8)
# MODEL DATASET IMAGE_ROOT OUTPUT_DIR JUDGE_URL JUDGE_MODEL NNODES NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS (0);
# OPENAI_API_KEY if the judge wants a key.
# Flags before `--` go to `r1-mllm reject`, those after it to `r1-mllm sft`; they win over those below.
# Without a GPU, and with nothing given, it teaches a small model on rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

unless_given $# "default (rendered scenes, a small Qwen2.5-VL)" quickstart reject
set_up
BATCH_SIZE=${BATCH_SIZE:-32}
defaults 1
MODEL=${MODEL:-Qwen/Qwen2.5-VL-3B-Instruct}
DATASET=${DATASET:-$root/configs/data/mixed.yaml}
folder=${OUTPUT_DIR:-work_dirs/Qwen2.5-VL-3B-RejectSFT_${GPUS}GPUS}

# sample FLAG... [-- ...]: runs reject with the words before `--`.
sample() {
    mine=0
    for word in "$@"; do
        if [ "$word" = -- ]; then break; fi
        mine=$((mine + 1))
    done
    i=0
    for word in "$@"; do # every word leaves at the front; ours come back at the end
        shift
        if [ "$i" -lt "$mine" ]; then set -- "$@" "$word"; fi
        i=$((i + 1))
    done
    if [ -n "${IMAGE_ROOT:-}" ]; then set -- --image_root "$IMAGE_ROOT" "$@"; fi
    if [ -n "${JUDGE_URL:-}" ]; then set -- --judge_url "$JUDGE_URL" --judge_model "${JUDGE_MODEL:-}" "$@"; fi
    job=reject
    start --model_name_or_path "$MODEL" --dataset_name "$DATASET" --output_dir "$OUTPUT_DIR" \
        --num_generations "$NUM_GENERATIONS" --max_prompt_length 2048 --max_completion_length 512 \
        --max_pixels 401408 "$@"
}

OUTPUT_DIR=$folder/reject
sample "$@"
while [ $# -gt 0 ]; do
    word=$1
    shift
    if [ "$word" = -- ]; then break; fi
done
DATASET=$folder/reject/messages.jsonl
IMAGE_ROOT=
OUTPUT_DIR=$folder/sft
fine_tune \
    --max_length 8192 --max_pixels 401408 --learning_rate 2e-7 --warmup_ratio 0.05 --lr_scheduler_type cosine \
    --num_train_epochs 3 --recompute True --bf16 "$precision" --fp16 False \
    --logging_steps 5 --report_to visualdl --save_steps 100 --save_total_limit 2 "$@"
