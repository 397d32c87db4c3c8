#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A curriculum against open questions alone, from the same start, for several seeds; then a table and a curve.
# Variables: SEEDS ("0 1 2") JOBS (2: seeds side by side, one thread each) CONFIG (configs/curriculum.yaml) OUTPUT_DIR
# (runs/curriculum_compare).  Flags after the script's name are those of `r1-mllm grpo`, for every stage of every arm.
# The same command continues where it stopped.
set -eu
. "$(dirname -- "$0")/common.sh"

SEEDS=${SEEDS:-0 1 2}
JOBS=${JOBS:-2}
CONFIG=${CONFIG:-$root/configs/curriculum.yaml}
OUTPUT_DIR=${OUTPUT_DIR:-runs/curriculum_compare}
say "Comparing $CONFIG with open questions alone on the CPU, seeds $SEEDS, $JOBS side by side, into $OUTPUT_DIR."
set_up_cpu
mkdir -p "$OUTPUT_DIR"
running=
count=0
for seed in $SEEDS; do
    OMP_NUM_THREADS=1 "$python" -m r1_mllm curriculum compare --config "$CONFIG" --seed "$seed" \
        --output_dir "$OUTPUT_DIR" "$@" >"$OUTPUT_DIR/seed-$seed.log" 2>&1 &
    running="$running $!"
    count=$((count + 1))
    if [ "$count" -ge "$JOBS" ]; then
        first=${running# }
        first=${first%% *}
        wait "$first" || fail $? "a seed failed; see $OUTPUT_DIR/seed-*.log"
        running=${running# "$first"}
        count=$((count - 1))
    fi
done
for process in $running; do
    wait "$process" || fail $? "a seed failed; see $OUTPUT_DIR/seed-*.log"
done
"$python" -m r1_mllm curriculum table "$OUTPUT_DIR"
cat "$OUTPUT_DIR/table.md"
