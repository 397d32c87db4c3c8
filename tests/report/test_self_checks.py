# SPDX-License-Identifier: Apache-2.0
"""Lengths, self-check phrases and their correlation with the reward, against numbers worked out by hand."""

import json
import math

import pytest

from r1_mllm.cli import main
from r1_mllm.report.run_files import read_run
from r1_mllm.report.self_checks import PHRASES, Correlation, analyse, centre, correlation, section


def row(step, prompt, num_tokens, reward, completion="<think>x</think>"):
    return {
        "step": step,
        "id": prompt,
        "prompt": prompt,
        "num_tokens": num_tokens,
        "reward": reward,
        "completion": completion,
    }


ROWS = [
    row(1, "p", 10, 0.0, "<think>Left. Wait, right. WAIT.</think>"),
    row(1, "p", 30, 1.0, "<think>awaiting</think>"),
    row(2, "q", 40, 2.0, "<think>Let me\ncheck.</think>"),
    row(2, "q", 80, 1.0, "<think>no</think>"),
    row(2, "r", 60, 0.5, "<think>wait</think>"),
]


def test_lengths_and_counts_per_step():
    found = analyse(ROWS, ("wait", "let me check", "aha"))
    assert found.length == [(1.0, 20.0), (2.0, 60.0)]
    assert found.checks == [(1.0, 1.0), (2.0, pytest.approx(2 / 3))]
    assert found.share == [(1.0, 0.5), (2.0, pytest.approx(2 / 3))]


def test_phrases_are_whole_words_in_any_case_and_over_line_breaks():
    wait, check, aha = analyse(ROWS, ("wait", "let me check", "aha")).phrases
    assert (wait.times, wait.num, wait.reward_with) == (3, 2, 0.25)
    assert wait.reward_without == pytest.approx(4 / 3)
    assert (check.times, check.reward_with) == (1, 2.0)
    assert (aha.times, aha.num, aha.reward_with, aha.reward_without) == (0, 0, None, 0.9)


def test_characters_without_spaces_are_found_inside_text():
    found = analyse([row(1, "p", 5, 1.0, "\u6211\u518d\u68c0\u67e5\u4e00\u4e0b")], PHRASES)
    assert sum(count.times for count in found.phrases) == 1


def test_the_correlation_is_pearsons_with_fishers_interval():
    # x - 3 = (-2, -1, 0, 1, 2), y - 3 = (-2, 0, -1, 2, 1): sum of products 4 + 0 + 0 + 2 + 2 = 8, both squares 10
    found = correlation([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert (found.r, found.num) == (pytest.approx(0.8), 5)
    half = 1.959963984540054 / math.sqrt(2)
    assert found.low == pytest.approx(math.tanh(0.5 * math.log(1.8 / 0.2) - half))
    assert found.high == pytest.approx(math.tanh(0.5 * math.log(1.8 / 0.2) + half))
    assert correlation([1, 2, 4, 7], [9, 6, 0, -9]).r == pytest.approx(-1)


def test_what_does_not_vary_or_is_too_few_has_no_correlation():
    assert correlation([1, 1, 1, 1], [1, 2, 3, 4]) == Correlation(None, None, None, 4)
    assert correlation([1, 2], [2, 1]).r is None
    three = correlation([1, 2, 3], [1, 2, 2])
    assert three.r == pytest.approx(math.sqrt(3) / 2) and (three.low, three.high) == (-1, 1)


def test_within_groups_hard_prompts_do_not_pass_for_an_effect():
    # Long prompts earn more; within each prompt the longer completion earns less.
    rows = [row(1, f"p{i}", 100 * i + 10 * j, i - 0.3 * j) for i in range(4) for j in range(3)]
    found = analyse(rows, ()).correlations
    assert found["length"].r > 0.9 and found["length within groups"].r == pytest.approx(-1)
    assert centre([1.0, 3.0, 10.0], ["a", "a", "b"]) == [-1, 1, 0]
    assert found["checks"].r is None


def test_groups_cost_degrees_of_freedom():
    x, y = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 2.0, 1.0, 3.0, 5.0, 4.0]
    plain, grouped = correlation(x, y), correlation(x, y, lost=2)
    assert plain.r == grouped.r and grouped.high - grouped.low > plain.high - plain.low


def test_rows_without_reward_or_length_are_left_out_and_none_gives_nothing():
    assert analyse([], ()) is None and analyse([{"step": 1, "completion": "wait"}], ("wait",)) is None
    assert len(analyse([*ROWS, {**ROWS[0], "reward": None}], ()).length) == 2


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ROWS))
    return tmp_path


def test_the_report_shows_it_with_the_phrases_asked_for(run_folder, capsys):
    main(["report", str(run_folder)])
    page = (run_folder / "report.html").read_text()
    assert "Length and self-checks" in page and "<td>wait</td>" in page and "length within groups" in page
    main(["report", str(run_folder), "--phrases", "awaiting", "<b>"])
    page = (run_folder / "report.html").read_text()
    assert "<td>awaiting</td>" in page and "<td>wait</td>" not in page
    assert "None of the 1 self-check phrases" in section(read_run(run_folder), ["hmm"])
