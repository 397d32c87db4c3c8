#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# DAPO on multimodal mathematics: Qwen2.5-VL-7B on five sources (scripts/prepare_math.sh), settings of
# configs/dapo_math_7b.yaml: clip-higher, token-level loss, dynamic sampling, overlong shaping, dual clip, no KL term.
# Variables: GPUS (what is there) BATCH_SIZE (64 prompts a rollout) MINI_BATCH_SIZE (8 prompts an optimizer step)
# PER_DEVICE_BATCH_SIZE NUM_GENERATIONS (16) GRADIENT_ACC MODEL DATASET IMAGE_ROOT OUTPUT_DIR NNODES NODE_RANK
# MASTER_ADDR MASTER_PORT RESTARTS (0); flags after the script's name win over those below.
# Without a GPU, and with nothing given, it trains a small model on rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

embedded_default math_boxed "$@"
set_up
BATCH_SIZE=${BATCH_SIZE:-64}
NUM_GENERATIONS=${NUM_GENERATIONS:-16}
defaults 1
MODEL=${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}
DATASET=${DATASET:-$root/configs/dapo_math.yaml}
IMAGE_ROOT=${IMAGE_ROOT:-.}
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/Qwen2.5-VL-7B-DAPO-Math_${GPUS}GPUS}
mini=$((${MINI_BATCH_SIZE:-8} / (GPUS * NNODES)))
if [ "$mini" -lt 1 ]; then mini=1; fi

train math_boxed --config "$root/configs/dapo_math_7b.yaml" --prompt_template "$root/configs/prompts_boxed.yaml" \
    --mini_batch_size "$mini" --bf16 "$precision" "$@"
