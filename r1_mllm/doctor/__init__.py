# SPDX-License-Identifier: Apache-2.0
"""What can be known before a run: `r1-mllm data check` and `--dry_run`.  No Paddle, no weights."""
