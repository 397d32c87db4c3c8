# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model on mathematics: pass@1 over 8 answers at temperature 0.6, text (AIME, MATH, GPQA) or pictures
(MathVision, MathVista, MathVerse): DATA_ROOT/NAME.jsonl, .json, .parquet or a folder.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a fresh clone runs without being installed

from r1_mllm.evaluation.math_eval import main

if __name__ == "__main__":
    main(__doc__, words=[f"--prompt_template={ROOT / 'configs' / 'prompts_boxed.yaml'}"])
