# SPDX-License-Identifier: Apache-2.0
"""Rewrite conversations about boxes for supervised fine-tuning: --json_path FILE --image_dir DIR --output_path FILE."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a fresh clone runs without being installed

from r1_mllm.data.refcoco import main

if __name__ == "__main__":
    main()
