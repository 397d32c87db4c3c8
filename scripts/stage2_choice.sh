#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One stage of a curriculum alone: options, from stage 1's last checkpoint.
# Flags as Curr-ReFT's scripts have them (docs/curriculum.md); they win over what stands below.
# Variables: GPUS (what is there) MODEL DATASET IMAGE_ROOT OUTPUT_DIR NUM_GENERATIONS (2) NNODES NODE_RANK MASTER_ADDR
# MASTER_PORT RESTARTS (0).
# Without a GPU, and with nothing given, it runs the embedded curriculum up to this stage.
set -eu
. "$(dirname -- "$0")/common.sh"

stage choice work_dirs/Qwen2.5-VL-3B-Curriculum/judge 2 1 "$@" # form, model, completions per prompt, epochs
