# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on counting or geometry: DATA_ROOT/NAME.jsonl with image_path, question, ground_truth."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a fresh clone runs without being installed

from r1_mllm.evaluation.command import main

if __name__ == "__main__":
    main(__doc__, words=["--results_name=r1-v_results"])
