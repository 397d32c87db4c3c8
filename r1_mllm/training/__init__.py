# SPDX-License-Identifier: Apache-2.0
"""Training: the GRPO loop (grpo.py), supervised steps (sft.py), and what they stand on."""
