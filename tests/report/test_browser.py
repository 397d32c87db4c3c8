# SPDX-License-Identifier: Apache-2.0
"""The table of completions and the comparison of runs: in the file, and in a real browser where there is one."""

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from r1_mllm.report import browser, page, several
from r1_mllm.report.run_files import read_run

from .conftest import write_jsonl, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def data_of(text):
    return json.loads(re.search(r'id="browser-data">(.*?)</script>', text, re.S)[1])


def test_rows_keep_what_was_sampled_read_and_earned(run_folder):
    found = data_of(browser.section([read_run(run_folder)]))
    assert [group["step"] for group in found["groups"]] == [1, 50, 120, 200]
    group = found["groups"][2]
    assert group["truth"] == [30.0, 20.0, 90.0, 80.0] and found["sizes"][group["picture"]] == [160, 120]
    assert [row["reward"] for row in group["rows"]] == [1.0, 1.25, 1.5, 1.75]
    assert group["rows"][3]["parts"] == {"accuracy": 0.75, "format": 1.0} and group["rows"][3]["advantage"] == 1.5
    assert len(found["pictures"]) == 1  # the same file four times


def test_a_long_run_stays_light_and_keeps_its_first_and_last_groups(run_folder):
    rows = [json.loads(line) for line in (run_folder / "completions.jsonl").read_text().splitlines()]
    many = [{**rows[i], "step": step, "completion": "word " * 400} for step in range(1, 1501) for i in range(4)]
    write_jsonl(run_folder / "completions.jsonl", many)
    text = browser.section([read_run(run_folder)])
    steps = [group["step"] for group in data_of(text)["groups"]]
    assert steps[0] == 1 and steps[-1] == 1500 and len(text) < 1.2 * browser.MAX_CHARS
    gaps = {after - before for before, after in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 1
    assert f"{4 * len(steps)} of 6000 logged completions" in text


def test_nothing_a_model_writes_ends_the_script(run_folder):
    rows = [json.loads(line) for line in (run_folder / "completions.jsonl").read_text().splitlines()]
    rows[0]["completion"] = "</script><script>alert(1)</script><!--"
    write_jsonl(run_folder / "completions.jsonl", rows)
    text = browser.section([read_run(run_folder)])
    assert text.count("<script") == 2 and "<!--" not in text
    assert data_of(text)["groups"][0]["rows"][0]["text"] == rows[0]["completion"]


@pytest.fixture
def two_runs(tmp_path):
    first, second = (write_run(tmp_path / name) for name in ("a", "b"))
    (second / "args.yaml").write_text("learning_rate: 0.0005\nmodel: <tiny>\noutput_dir: elsewhere\n")
    command = {"time": "2026-11-20T12:00:00Z", "command": "r1-mllm grpo --beta 0", "cwd": "/work"}
    write_jsonl(second / "commands.jsonl", [command])
    content = json.loads((second / "eval_after.json").read_text())
    for row in content["results"][:10]:
        row["correct"] = 0
    (second / "eval_after.json").write_text(json.dumps(content))
    return first, second


def test_runs_are_compared_with_the_first(two_runs):
    path = page.write_reports(two_runs)
    text = path.read_text()
    assert path == two_runs[0].parent / "comparison.html"
    # 32 of 40 and 24 of 40: 8 of the first ten were right
    assert "80.0 %" in text and "60.0 %" in text and "-20.0 (-32.6 to -7.4)" in text
    assert "<td>learning_rate</td><td>0.0002</td><td>0.0005</td>" in text
    assert "<td>output_dir" not in text and "<td>model" not in text
    assert "r1-mllm grpo --beta 0" in text and "2026-11-20T12:00:00Z, in /work" in text
    assert [group["run"] for group in data_of(text)["groups"]] == [0] * 4 + [1] * 4


def test_runs_of_the_same_name_are_told_apart():
    assert several.distinct_names([Path("/x/one/run"), Path("/x/two/run")]) == ["one/run", "two/run"]
    assert several.distinct_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]


def chromium(*options, timeout=90):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=4000",
    ]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=timeout, check=True).stdout


@pytest.mark.slow
@in_browser
def test_filters_pages_and_boxes_work_in_a_browser(two_runs, tmp_path):
    """A small script types into the filters; what the table then says is written into the page's title."""
    text = page.write_reports(two_runs).read_text()
    script = """<script>
const say = () => document.querySelector('.pages .quiet').textContent.trim();
const type = (name, value) => { const node = document.querySelector(`[name=${name}]`); node.value = value;
  node.dispatchEvent(new Event('input')); };
const heard = [say()];
type('run', '1'); heard.push(say());
type('from', '100'); heard.push(say());
type('least', '1.5'); heard.push(say());
for (const kind of ['truth', 'after']) heard.push(document.querySelectorAll(`.results rect.${kind}`).length);
type('words', 'nothing like it'); heard.push(say());
document.title = heard.join(' | ');
</script></body>"""
    (tmp_path / "driven.html").write_text(text.replace("</body>", script))
    out = chromium("--dump-dom", f"file://{tmp_path}/driven.html")
    heard = html.unescape(re.search(r"<title>(.*?)</title>", out)[1]).split(" | ")
    assert heard == [
        "32 completions of 8 prompts, page 1 of 1",
        "16 completions of 4 prompts, page 1 of 1",
        "8 completions of 2 prompts, page 1 of 1",
        "4 completions of 2 prompts, page 1 of 1",
        *("2", "4"),
        "0 completions of 0 prompts, page 1 of 1",
    ]


@pytest.mark.slow
@in_browser
def test_a_screenshot_shows_charts_table_and_boxes_and_a_phone_needs_no_sideways_scrolling(run_folder, tmp_path):
    path = page.write_report(run_folder)
    shot = tmp_path / "page.png"
    chromium("--window-size=1100,4600", f"--screenshot={shot}", f"file://{path}")
    with Image.open(shot) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
    for shown in ((0x2A, 0x6F, 0xDB), (0x19, 0xC3, 0x7D), (0xFF, 0x8A, 0x3D)):  # curve, true box, predicted box
        assert shown in colors
    frame = f"""<iframe width="390" height="800" srcdoc="{html.escape(path.read_text(), quote=True)}"
onload="document.title = this.contentDocument.documentElement.scrollWidth"></iframe>"""
    (tmp_path / "phone.html").write_text(f"<!doctype html><title></title>{frame}")
    out = chromium("--dump-dom", f"file://{tmp_path}/phone.html")
    assert int(re.search(r"<title>(\d+)</title>", out)[1]) <= 390
