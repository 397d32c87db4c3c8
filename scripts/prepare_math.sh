#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fetch Geometry3K, MathVision, PolyMath, SceMQA and We-Math and convert them to verl's parquet in data/math/, where
# configs/dapo_math.yaml looks for them.  What is there already stays.  Variables: OUT (data).  Flags go to `data convert`.
set -eu
. "$(dirname -- "$0")/common.sh"

for word in "$@"; do
    case $word in -h | --help) sed -n '3,4s/^# //p' "$0" && exit 0 ;; esac
done
set_up
OUT=${OUT:-data}

# to_verl NAME SOURCE FLAG...: unless it is there; rows that are not in order are written to a file and left out.
to_verl() {
    file=$OUT/math/$1.parquet
    source=$OUT/$2
    shift 2
    if [ -e "$file" ]; then say "$file is already there"; return 0; fi
    "$python" -m r1_mllm data convert "$source" --out "$file" --data_policy quarantine "$@"
}

"$python" -m r1_mllm data prepare math --out "$OUT"
to_verl geometry3k geometry3k --split train "$@"
to_verl mathvision mathvision --split test "$@"
to_verl polymath polymath --split test "$@"
to_verl scemqa_choice SceMQA-main/Multiple_Choice/multiple_choice.json "$@"
to_verl scemqa_free SceMQA-main/Free_Response/free_response.json "$@"
to_verl wemath wemath --split testmini "$@"
