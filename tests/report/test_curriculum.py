# SPDX-License-Identifier: Apache-2.0
"""The comparison of a curriculum with open questions, from files written by hand."""

import csv
import json
from xml.etree import ElementTree

import pytest

from r1_mllm.report.curriculum import over_seeds, write_comparison


def write_arm(folder, stages, right, num=10):
    """stages: (name, steps, tokens, [(step, accuracy)])."""
    listed = [{"name": name, "steps": steps, "generated_tokens": tokens} for name, steps, tokens, _ in stages]
    folder.mkdir(parents=True)
    (folder / "curriculum.json").write_text(json.dumps({"stages": listed}))
    for name, steps, tokens, curve in stages:
        (folder / name).mkdir()
        lines = [json.dumps({"step": s, "accuracy": a, "low": a - 1, "high": a + 1}) for s, a in curve]
        (folder / name / "eval.jsonl").write_text("\n".join(lines))
        logged = [{"step": steps, "num_generated_tokens": tokens}, {"step": steps, "eval/accuracy": 1.0}]
        (folder / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, logged)))
        rows = [{"id": i, "correct": int(i in right)} for i in range(num)]
        (folder / name / "eval_after.json").write_text(json.dumps({"accuracy": 0, "results": rows}))


def make_seed(folder, curriculum, control):
    judge, ends = ("judge", 5, 100, [(0, 10.0), (5, 20.0)]), ("open", 5, 110, [(0, 20.0), (5, 60.0)])
    write_arm(folder / "curriculum", [judge, ends], curriculum)
    write_arm(folder / "open_steps", [judge, ("open", 5, 150, [(0, 25.0), (5, 50.0)])], control)
    write_arm(folder / "open_tokens", [("open", 3, 112, [(0, 25.0), (3, 40.0)])], control)


def test_the_table_states_steps_tokens_intervals_and_paired_differences(tmp_path):
    make_seed(tmp_path / "seed-0", curriculum={0, 1, 2, 3, 4, 5}, control={0, 1, 2, 3})
    make_seed(tmp_path / "seed-1", curriculum={0, 1, 2, 3}, control={1, 2, 3, 4})
    table, rows, chart = write_comparison(tmp_path)
    text = table.read_text()
    assert "| 0 | curriculum | 10 | 210 | 60.0 | 31.3 to 83.2 |" in text  # Wilson of 6 / 10
    assert "| 0 | open_steps | 10 | 250 | 40.0 | 16.8 to 68.7 |" in text
    assert "| 0 | open_tokens | 8 | 212 | 40.0 | 16.8 to 68.7 |" in text  # 5 + 3 steps, 100 + 112 tokens
    # seed 0: two pairs of ten changed, up: sd 0.42164, half 1.95996 * 0.42164 / sqrt(10) = 0.26133
    assert "| open_steps | 0 | +20.0 | -6.1 to +46.1 | 10 questions |" in text
    assert "| open_steps | 1 | +0.0 | -29.2 to +29.2 | 10 questions |" in text  # one up, one down
    # means 0.2 and 0.0: sd 0.141421, half 12.706 * 0.1 = 1.2706
    assert "| open_steps | mean | +10.0 | -117.1 to +137.1 | 2 seeds (Student's t) |" in text
    points = list(csv.DictReader(rows.open()))
    last = next(p for p in points if p["seed"] == "1" and p["arm"] == "open_tokens" and p["step"] == "8")
    assert (last["generated_tokens"], last["accuracy"], last["stage"]) == ("212", "40.0", "open")
    root = ElementTree.fromstring(chart.read_text())
    assert root.tag.endswith("svg")
    assert [t.text for t in root.iter() if t.text in ("curriculum", "open_steps", "open_tokens")] == [
        "curriculum", "open_steps", "open_tokens",
    ]  # fmt: skip


def test_an_unfinished_seed_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no seed-N"):
        write_comparison(tmp_path)
    write_arm(tmp_path / "seed-3" / "curriculum", [("open", 1, 1, [(0, 1.0)])], {1})
    with pytest.raises(ValueError, match=r"seed-3: open_steps, open_tokens is not finished"):
        write_comparison(tmp_path)


def test_the_interval_over_three_seeds_is_students():
    mean, low, high = over_seeds([0.1, 0.2, 0.6])
    assert (round(mean, 4), round(low, 4), round(high, 4)) == (0.3, -0.3573, 0.9573)  # 4.303 * 0.264575 / sqrt(3)
    with pytest.raises(ValueError, match="1 seeds"):
        over_seeds([0.1])
