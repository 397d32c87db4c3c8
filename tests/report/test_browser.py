# SPDX-License-Identifier: Apache-2.0
"""The table of completions and the comparison of runs: in the file, and in a real browser where there is one."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from r1_mllm.report import browser, page, pictures, several
from r1_mllm.report.run_files import read_run

from .. import chromium
from .conftest import write_jsonl, write_run

in_browser = pytest.mark.skipif(chromium.PATH is None, reason="no Chromium on this machine")


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
    rows = [json.loads(line) for line in (second / "completions.jsonl").read_text().splitlines()]
    write_jsonl(
        second / "completions.jsonl", [row | ({"task": "counting"} if row["step"] == 50 else {}) for row in rows]
    )
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


@pytest.fixture(scope="module")
def chrome():
    with chromium.Browser() as found:
        yield found


@pytest.mark.slow
@in_browser
def test_filters_pages_and_boxes_work_in_a_browser(two_runs, chrome):
    chrome.size(1200, 900)
    chrome.open(page.write_reports(two_runs).as_uri())

    def status():
        return chrome.run("document.querySelector('.pages .quiet').textContent.trim()")

    def count(selector):
        return chrome.run(f"document.querySelectorAll('.results {selector}').length")

    assert status() == "32 completions of 8 prompts, page 1 of 1"
    for field, value, expected in (
        ("run", "1", "16 completions of 4 prompts"),
        ("task", "counting", "4 completions of 1 prompts"),
        ("task", "", "16 completions of 4 prompts"),
        ("from", "100", "8 completions of 2 prompts"),
        ("least", "1.5", "4 completions of 2 prompts"),
    ):
        chrome.type(f"[name={field}]", value)
        assert status() == f"{expected}, page 1 of 1"
    assert (count("rect.truth"), count("rect.after"), count("image")) == (2, 4, 2)
    place = "document.querySelector('.results rect.truth').getAttribute"
    assert [chrome.run(f"{place}({name!r})") for name in ("x", "y", "width", "height")] == ["30", "20", "60", "60"]
    chrome.type("[name=words]", "nothing like it")
    assert status() == "0 completions of 0 prompts, page 1 of 1"
    assert "no completion fits" in chrome.run("document.querySelector('.results').textContent")


@pytest.mark.slow
@in_browser
def test_many_prompts_are_leafed_through(run_folder, chrome):
    rows = [json.loads(line) for line in (run_folder / "completions.jsonl").read_text().splitlines()]
    write_jsonl(run_folder / "completions.jsonl", [{**row, "step": step} for step in range(1, 20) for row in rows[:4]])
    chrome.open(page.write_report(run_folder).as_uri())
    for _ in range(2):
        chrome.run("document.querySelectorAll('.pages button')[1].click()")
    text = chrome.run("document.querySelector('.pages').textContent")
    assert "76 completions of 19 prompts, page 3 of 3" in text
    assert chrome.run("document.querySelector('.results h3').textContent").startswith("step 17")
    assert chrome.run("document.querySelectorAll('.pages button')[1].disabled") is True


@pytest.mark.slow
@in_browser
def test_a_screenshot_shows_charts_table_and_boxes(run_folder, chrome, tmp_path):
    chrome.size(1100, 900)
    chrome.open(page.write_report(run_folder).as_uri())
    with Image.open(chrome.screenshot(tmp_path / "page.png")) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
    for shown in ((0x2A, 0x6F, 0xDB), pictures.TRUE_COLOR, pictures.READ_COLOR):  # curve, true box, predicted box
        assert shown in colors


@pytest.mark.slow
@in_browser
def test_a_phone_needs_no_sideways_scrolling_and_no_text_leaves_its_tile(two_runs, chrome):
    chrome.size(360, 740, phone=True)
    for path in (page.write_reports(two_runs), page.write_report(two_runs[0])):
        chrome.open(path.as_uri())
        chrome.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert chrome.run("document.documentElement.scrollWidth") <= 360
    wide = "[...document.querySelectorAll('.tile b')].filter((one) => one.scrollWidth > one.clientWidth).length"
    assert chrome.run("document.querySelectorAll('.tile b').length") == 5 and chrome.run(wide) == 0
