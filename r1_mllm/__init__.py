# SPDX-License-Identifier: Apache-2.0
"""GRPO for Qwen2-VL and Qwen2.5-VL in PaddlePaddle."""

from .runtime import VERSION as __version__

__all__ = ["__version__"]
