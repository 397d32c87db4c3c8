# SPDX-License-Identifier: Apache-2.0
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from r1_mllm.report import page, write_report
from r1_mllm.report.run_files import read_jsonl, read_run

VOID = {"meta", "input"}


class Strict(HTMLParser):
    """Checks that tags are closed in order and collects what the page refers to."""

    def __init__(self):
        super().__init__()
        self.open, self.targets, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(path):
    page = Strict()
    text = path.read_text(encoding="utf-8")
    page.feed(text)
    assert page.open == []
    return text, page


def test_the_page_is_one_well_formed_file_that_needs_nothing_else(run_folder):
    path = write_report(run_folder)
    text, page = read(path)
    assert path == run_folder / "report.html"
    assert page.targets and all(target.startswith("data:image/jpeg;base64,") for target in page.targets)
    assert page.tags.count("script") == 2 and "link" not in page.tags and "@import" not in text
    assert sorted(entry.suffix for entry in run_folder.iterdir()).count(".html") == 1


def test_accuracies_stand_beside_their_intervals_and_paired_difference(run_folder):
    text, _ = read(write_report(run_folder))
    # 14 of 40 and 32 of 40; 21 gained, 3 lost
    assert "<b>35.0 %</b>" in text and "14 / 40" in text and "22.1 to 50.5" in text
    assert "<b>80.0 %</b>" in text and "32 / 40" in text and "65.2 to 89.5" in text
    assert "+45.0 points" in text and "21 became right, 3 became wrong" in text
    assert "zero lies outside" in text


def test_every_logged_quantity_has_a_curve(run_folder):
    text, _ = read(write_report(run_folder))
    for title in (
        "Reward",
        "Parts of the reward",
        "Completion length",
        "KL to",
        "Loss",
        "Gradient norm",
        "Share of peak",
    ):
        assert f"<h3>{title}" in text
    assert text.count('class="chart"') == 10 and "<h3>Share of peak arithmetic (MFU)" in text


def test_samples_show_true_and_predicted_boxes(run_folder):
    text, _ = read(write_report(run_folder))
    assert text.count('<rect class="truth"') >= 12
    assert '<rect class="after"' in text and '<rect class="before"' in text
    assert "no box in the answer" in text


def test_text_of_models_and_data_is_escaped(run_folder):
    rows = [json.loads(line) for line in (run_folder / "completions.jsonl").read_text().splitlines()]
    rows[0]["completion"] = "<script>alert(1)</script></pre></table>"
    (run_folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, page = read(write_report(run_folder))
    assert page.tags.count("script") == 2 and "&lt;script&gt;" in text and "\\u003cscript>alert" in text
    assert "the &lt;red&gt; square" in text and "model: &lt;tiny&gt;" in text


def test_a_run_that_has_only_begun_can_be_reported(run_folder, tmp_path):
    for name in ("eval_before.json", "eval_after.json", "args.yaml", "completions.jsonl"):
        (run_folder / name).unlink()
    text, _ = read(write_report(run_folder, tmp_path / "elsewhere" / "page.html"))
    assert "<h2>Curves</h2>" in text and "<h2>Accuracy" not in text and "<h2>Settings" not in text


def test_where_no_verdict_changed_no_interval_of_no_width_is_claimed(run_folder):
    (run_folder / "eval_after.json").write_text((run_folder / "eval_before.json").read_text())
    text = page.write_report(run_folder).read_text()
    assert "no verdict changed" in text and "zero lies" not in text and "+0.0 to +0.0" not in text


def test_one_evaluation_alone_has_no_difference(run_folder):
    (run_folder / "eval_before.json").unlink()
    text, _ = read(write_report(run_folder))
    assert "after training" in text and "difference" not in text and "answer before" not in text


def test_answers_that_are_not_boxes_are_written_out(run_folder):
    content = json.loads((run_folder / "eval_after.json").read_text())
    for row in content["results"]:
        row.update(ground_truth="140\u00b0", extracted_answer="40.5")
    (run_folder / "eval_after.json").write_text(json.dumps(content))
    text, _ = read(write_report(run_folder))
    assert "expected 140\u00b0, read 40.5" in text


def test_gaps_and_cut_lines_of_a_run_still_going_are_left_out(run_folder):
    path = run_folder / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "kl": 0.5}\n{"step": 2, "kl": null}\n{"step": 3, "kl": 0.25}\n{"step": 3, "kl": 2}\n{"st'
    )
    assert read_run(run_folder).series("kl") == [(1.0, 0.5), (3.0, 2.0)]


def test_a_broken_line_inside_a_file_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nbroken\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2"):
        read_jsonl(tmp_path / "metrics.jsonl")


def test_a_folder_without_a_run_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl.*output_dir"):
        write_report(tmp_path)


def test_completions_of_first_middle_and_last_step_are_shown(run_folder):
    text, _ = read(write_report(run_folder))
    assert re.findall(r"<summary>step (\d+)", text) == ["1", "120", "200"]
    assert "sample 3" in text and '<th class="number">format</th>' in text


def test_the_report_imports_no_paddle():
    code = "import sys, r1_mllm.report; sys.exit('paddle' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_seconds_count_the_steps_between_logged_lines():
    # 5 steps of 2 s, then 3 steps of 4 s
    assert page._total_seconds([(5.0, 2.0), (8.0, 4.0)]) == 22.0
