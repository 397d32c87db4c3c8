# SPDX-License-Identifier: Apache-2.0
"""The embedded default: a small Qwen2.5-VL, a warm start on a weak annotator's answers, then a real GRPO run."""
