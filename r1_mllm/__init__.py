# SPDX-License-Identifier: Apache-2.0
"""GRPO for Qwen2-VL and Qwen2.5-VL in PaddlePaddle."""

__version__ = "0.1.0"
