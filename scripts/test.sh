#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The fast tests; makes or reuses an environment first.  Arguments go to pytest (`-m slow` runs the slow ones).
set -eu
. "$(dirname -- "$0")/common.sh"

set_up_cpu
say "Running the tests with $(command -v "$python") ..."
cd "$root"
exec "$python" -m pytest -m "not slow and not gpu and not oracle" "$@"
