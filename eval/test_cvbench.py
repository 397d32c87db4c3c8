# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on CV-Bench: Count, Relation, Depth, Distance, 2D, 3D and total."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a fresh clone runs without being installed

from r1_mllm.evaluation.cvbench import main

if __name__ == "__main__":
    main(__doc__)
