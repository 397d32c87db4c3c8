# SPDX-License-Identifier: Apache-2.0
"""Gold answers of real problems: accepted in every form, those of other values refused."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from r1_mllm import gold_check
from r1_mllm.records import Example

ROOT = Path(__file__).resolve().parents[1]
MATHVISION = ROOT / "tests" / "data_files" / "mathvision"


def test_every_form_of_the_right_answer_and_no_other_is_accepted():
    """`scripts/check_gold_answers.py FOLDER` does the same for the whole set (docs/math.md has its figures)."""
    report = gold_check.check_folder(MATHVISION)
    assert report.lines()[0].startswith("8 problems: 24 own answers asked, 0 not accepted")
    assert report.ok and report.num_others > 100


def test_the_script_names_what_is_wrong(tmp_path):
    row = {"id": "1", "question": "x?", "options": [], "answer": "5 or 6"}
    (tmp_path / "problems.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "2", "answer": "7"}))
    script = [sys.executable, ROOT / "scripts" / "check_gold_answers.py"]
    ended = subprocess.run([*script, tmp_path], capture_output=True, text=True)
    assert ended.returncode in (0, 1) and ended.stdout.startswith("2 problems: 6 own answers asked")
    assert subprocess.run(script, capture_output=True, text=True).returncode == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("22+12\\sqrt{2}", 22 + 12 * math.sqrt(2)), ("900\\pi", 900 * math.pi), ("8-2\\pi", 8 - 2 * math.pi),
     ("\\frac{69}{125}", 0.552), ("13.5", 13.5), ("C", None), ("", None), ("__import__('os')", None)],
)  # fmt: skip
def test_values_are_told_without_the_verifier(text, value):
    assert gold_check.number(text) == (None if value is None else pytest.approx(value))


def test_what_counts_as_the_same_value():
    options = ["$1 \\mathrm{~cm}^{2}$", "$15\\text{ inches}$", "red"]
    example = Example("math_boxed", "q", "B", meta={"options": options})
    assert gold_check.same_value("15", example) and gold_check.same_value("B", example)
    assert not gold_check.same_value("1", example) and not gold_check.same_value("A", example)
    assert gold_check.same_value("0.5", Example("math_boxed", "q", "\\frac{1}{2}"))
