# SPDX-License-Identifier: Apache-2.0
"""The embedded data sets: rendered pictures with exact ground truth, in the formats real data sets come in."""

from .scenes import SceneOptions, scene, weak_answer
from .writing import encode_png, write_dataset, write_splits

__all__ = ["SceneOptions", "encode_png", "scene", "weak_answer", "write_dataset", "write_splits"]
