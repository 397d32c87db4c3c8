#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Peak memory of each process when 1, 2 and 4 processes share one training run: scripts/bench_memory.sh [OUT_DIR] [FLAG...]
# Runs on the CPU; flags are those of "r1-mllm bench memory".  OUT_DIR (default work_dirs/bench_memory) gets a line each.
set -eu
. "$(dirname -- "$0")/common.sh"
out=${1:-work_dirs/bench_memory}
if [ $# -gt 0 ]; then shift; fi
say "Measuring the memory of sharded training on this machine's CPU, into $out."
set_up_cpu
mkdir -p "$out"
measure() {
    say "$1 processes, sharding $2"
    count=$1
    stage=$2
    shift 2
    "$python" -m paddle.distributed.launch --nproc_per_node "$count" --log_dir "$out/logs-$count-$stage" \
        "$python" -m r1_mllm bench memory --sharding "$stage" --json "$out/$count-$stage.json" "$@" \
        >"$out/launch.log" 2>&1 || fail 1 "that failed; see $out/launch.log"
    cat "$out/$count-$stage.json"
}
measure 1 none "$@"
for processes in 2 4; do
    for kind in none stage1 stage2; do measure "$processes" "$kind" "$@"; done
done
