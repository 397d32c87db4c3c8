#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Times the peer's GRPO step (tests/bench/README.md) and ours alternately on the same files; prints ratios of medians
# over quiet steps.  Flags go to both: --size small --prompts 1 --gens 8 --new 128 --side 616 --prompt-tokens 540
# --lengths 16:256 --beta 0.04 --threads 2 ...
# Variables: PEER_PYTHON (peer/bin/python) ROUNDS (3) STEPS (6 per round) WARMUP (2) OUT (runs/bench) QUIET (0.2:
# cores other processes may keep busy in a step that counts).
set -eu
. "$(dirname -- "$0")/common.sh"

set_up_cpu
PEER_PYTHON=${PEER_PYTHON:-peer/bin/python}
ROUNDS=${ROUNDS:-3}
OUT=${OUT:-runs/bench}
has "$PEER_PYTHON" torch trl ||
    fail 69 "$PEER_PYTHON has no torch and trl; $root/tests/bench/README.md says how to make it"
set -- --steps "${STEPS:-6}" --warmup "${WARMUP:-2}" "$@"
mkdir -p "$OUT"
rm -f "$OUT"/peer_*.json "$OUT"/ours_*.json
round=1
while [ "$round" -le "$ROUNDS" ]; do
    say "Round $round of $ROUNDS: the peer ..."
    "$PEER_PYTHON" "$root/tests/bench/bench_peer_step.py" --save "$OUT/model" --json "$OUT/peer_$round.json" "$@" \
        >"$OUT/peer.log"
    say "Round $round of $ROUNDS: ours ..."
    "$python" -m r1_mllm bench step --model "$OUT/model" --json "$OUT/ours_$round.json" "$@" >"$OUT/ours.log"
    round=$((round + 1))
done
"$python" -m r1_mllm bench compare "$OUT" --quiet "${QUIET:-0.2}"
