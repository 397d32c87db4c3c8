#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The fast tests, one file a core at a time; makes or reuses an environment first.  Arguments go to pytest (`-m slow`
# runs the slow ones), and then tests run one after the other.
set -eu
. "$(dirname -- "$0")/common.sh"

set_up_cpu
say "Running the tests with $(command -v "$python") ..."
cd "$root"
if [ $# -eq 0 ]; then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    "$python" tests/compile_loops.py >/dev/null 2>&1 || true # once, not in every worker; the tests say what is wrong
    set -- -n auto --maxprocesses 8 --dist loadfile
fi
exec "$python" -m pytest -m "not slow and not gpu and not oracle" "$@"
