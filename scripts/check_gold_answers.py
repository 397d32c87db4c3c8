# SPDX-License-Identifier: Apache-2.0
"""Check the verifier on the gold answers of a folder: `check_gold_answers.py FOLDER` (with problems.jsonl) or a file.

Every gold answer, plain, boxed and in answer tags, must be right for its problem; those of other values must be wrong.
Prints the figures and every exception; exit code 1 when there is one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a fresh clone runs without being installed

from r1_mllm.gold_check import check_folder

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    report = check_folder(sys.argv[1])
    print("\n".join(report.lines()))
    sys.exit(0 if report.ok else 1)
