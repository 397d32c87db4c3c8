#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The main job in minutes on a CPU: a small Qwen2.5-VL, GRPO on rendered scenes, accuracy before and after.
# Makes or reuses an environment first.  Flags: `--help`.
set -eu
. "$(dirname -- "$0")/common.sh"

set_up_cpu
exec "$python" -m r1_mllm quickstart "$@"
