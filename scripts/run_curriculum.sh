#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Three stages, judge, choice and open, each from a checkpoint of the one before (docs/curriculum.md).
# Variables: CONFIG (configs/curriculum_3b.yaml) GPUS (what is there) MODEL IMAGE_ROOT OUTPUT_DIR (the file's own) NNODES
# NODE_RANK MASTER_ADDR MASTER_PORT RESTARTS (0); flags after the script's name are those of `r1-mllm grpo`, for every
# stage, and --until STAGE.
# The same command continues where it stopped.  Without a GPU, and with no CONFIG or MODEL, it trains a small model on
# rendered scenes instead.
set -eu
. "$(dirname -- "$0")/common.sh"

if [ "$(count_gpus)" -eq 0 ] && [ -z "${CONFIG:-}${MODEL:-}" ]; then
    say "No GPU here and no CONFIG given: running the embedded curriculum (rendered scenes, a small Qwen2.5-VL)."
    set_up_cpu
    exec "$python" -m r1_mllm curriculum --config "$root/configs/curriculum.yaml" \
        ${OUTPUT_DIR:+--output_dir "$OUTPUT_DIR"} "$@"
fi
set_up
defaults 1
CONFIG=${CONFIG:-$root/configs/curriculum_3b.yaml}
set -- --config "$CONFIG" ${MODEL:+--model_name_or_path "$MODEL"} ${IMAGE_ROOT:+--image_root "$IMAGE_ROOT"} \
    ${OUTPUT_DIR:+--output_dir "$OUTPUT_DIR"} "$@"
OUTPUT_DIR=${OUTPUT_DIR:-work_dirs/curriculum} # of the launcher's logs
persist curriculum "$@"
