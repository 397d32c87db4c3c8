# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on open-vocabulary detection: DATA_ROOT/NAME.json(l), COCO mAP and whole answers that are right."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a fresh clone runs without being installed

from r1_mllm.evaluation.command import main

if __name__ == "__main__":
    main(__doc__, words=["--task=open_detection"])
