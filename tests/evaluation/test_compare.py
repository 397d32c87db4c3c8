# SPDX-License-Identifier: Apache-2.0
"""The table of several models on several sets."""

import csv
import json

import pytest

from r1_mllm import cli
from r1_mllm.evaluation.compare import main, render
from r1_mllm.runtime import DATA


def results(verdicts, first=0):
    return {"results": [{"id": f"q{first + i}", "correct": right} for i, right in enumerate(verdicts)]}


def test_accuracies_carry_wilson_intervals_and_differences_paired_ones():
    before, after = results([1, 0, 0, 0, 1, 0, 0, 0, 1, 0]), results([1, 1, 0, 1, 1, 0, 1, 0, 1, 1])
    lines = render({"base": {"a": before}, "R1": {"a": after}}, {"a": "Set A"}).splitlines()
    assert lines[0].split("|")[2].strip() == "Set A"
    assert "30.00 (10.78 to 60.32), n 10" in lines[2] and "70.00 (39.68 to 89.22), n 10" in lines[3]
    # ten changes, four of them 1: mean 0.4, s = sqrt((4*0.36 + 6*0.16)/9) = 0.5164, 1.96 s / sqrt(10) = 0.3201
    assert "R1 - base" in lines[4] and "+40.00 (+7.99 to +72.01), n 10 *" in lines[4]


def test_only_questions_both_were_asked_are_compared():
    lines = render({"x": {"a": results([1, 1, 1])}, "y": {"a": results([1, 0, 1], first=1)}}, {"a": "a"}).splitlines()
    assert "-50.00" in lines[4] and "n 2" in lines[4] and "*" not in lines[4]
    lines = render({"x": {"a": results([1])}, "y": {"a": results([1], first=9)}}, {"a": "a"}).splitlines()
    assert "no common question" in lines[4]


def test_the_command_reads_results_files_and_writes_the_numbers(tmp_path, capsys):
    for model, verdicts in (("m", [1, 0, 1, 1]), ("r", [1, 1, 1, 1])):
        for name in ("one", "two"):
            (tmp_path / f"rec_{name}_{model}.json").write_text(json.dumps(results(verdicts)))
    rows = [word for model in "mr" for word in ("--row", f"model {model}={tmp_path}/rec_{{dataset}}_{model}.json")]
    cli.main(["table", "--columns", "one=First", "two", *rows, "--csv", str(tmp_path / "t.csv")])
    told = capsys.readouterr().out
    assert told.count("75.00 (30.06 to 95.44), n 4") == 2 and "First" in told and "model r - model m" in told
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [(line["model"], line["dataset"], line["accuracy"]) for line in lines] == [
        ("model m", "one", "75.0"),
        ("model m", "two", "75.0"),
        ("model r", "one", "100.0"),
        ("model r", "two", "100.0"),
    ]


def test_what_is_missing_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["table", "--columns", "one", "--row", f"m={tmp_path}/{{dataset}}.json"])
    assert ended.value.code == DATA and "one.json is not there; evaluate one first" in capsys.readouterr().err
    for content, told in (("{", "not a results file"), ("[]", "no `results`"), ('{"results": []}', "no `results`")):
        (tmp_path / "one.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            main(["--columns", "one", "--row", f"m={tmp_path}/{{dataset}}.json"])
    with pytest.raises(ValueError, match=r"TITLE=FILE with \{dataset\}"):
        main(["--columns", "one", "--row", "m=results.json"])
