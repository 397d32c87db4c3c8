#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains a tiny model under random faults and compares it with an undisturbed run: soak.sh [MINUTES] [--seed N], on a CPU.
set -eu
. "$(dirname -- "$0")/common.sh"

say "Soak test on the CPU for ${1:-120} minutes (docs/reliability.md)."
set_up_cpu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" "$root/tests/reliability/soak.py" "$@"
