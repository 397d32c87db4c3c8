# SPDX-License-Identifier: Apache-2.0
"""docs/external_eval.md: each benchmark its predecessors report has its command, judge and word about what was run."""

import re

from .reading import ROOT, rows

PAGE = "docs/external_eval.md"
BENCHMARKS = ("AI2D", "MMVet", "MMBench", "MathVista", "OCRBench", "MathVerse", "ChartQA", "MME", "MMStar", "CV-Bench")


def test_each_benchmark_has_a_command_a_judge_and_how_far_it_came():
    table = rows(PAGE, "## The command for each benchmark")
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert tuple(row[0] for row in table) == BENCHMARKS
    for _, task, tokens, _, judge, came in table:
        name = re.match(r"`(\w+)`", task)[1]
        assert re.search(rf"^ask {name}$", text, re.M), name
        assert tokens and judge and came
    assert len(re.findall(r"^ask \w+$", text, re.M)) == len(BENCHMARKS)
    for word in ("r1-mllm serve", "vllm serve", "r1-mllm export", "OPENAI_API_URL", "None of them was run"):
        assert word in text
