#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fetch SAT (training) and CV-Bench (testing) into data/, or unpack what is here: prepare_sat.sh [--from FILE] [--out DIR]
# [--any_count], the flags of `r1-mllm data prepare sat`.
set -eu
. "$(dirname -- "$0")/common.sh"

set_up
exec "$python" -m r1_mllm data prepare sat "$@"
