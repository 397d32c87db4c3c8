# SPDX-License-Identifier: Apache-2.0
"""docs/migration.md against the parser: what is as is, passed over, refused, and what to type instead."""

import re
import shlex

import pytest

from r1_mllm.config import EvalConfig, GrpoConfig, SftConfig
from r1_mllm.config.flags import parse
from r1_mllm.runtime import USAGE, Stop

from .parsing import ZERO
from .reading import ROOT, blocks, rows

PAGE = "docs/migration.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
COMMANDS = {"grpo": GrpoConfig, "sft": SftConfig, "eval": EvalConfig}
HEADINGS = list(re.finditer(r"^### .*: flags of `r1-mllm (\w+)`$", TEXT, re.M))
ROWS = [(COMMANDS[match[1]], *row) for match in HEADINGS for row in rows(PAGE, match[0])]
SAME_NAME = ("--dataset_name SAT", "--reward_funcs accuracy format length")
"""Rows of flags that are known here, with a value that is not."""


def words(cell):
    """The words in backticks of a cell, files of DeepSpeed where the tests keep them."""
    (typed,) = re.findall(r"`([^`]+)`", cell)
    found = shlex.split(typed)
    return [str(ZERO / word.rsplit("/", 1)[1]) if word.startswith("local_scripts/zero") else word for word in found]


def notes(cls, argv, capsys):
    """Notes on stderr; None where the line is refused."""
    try:
        parse(cls, argv, "r1-mllm")
    except Stop as stop:
        assert stop.code == USAGE and len(str(stop)) > 20
        return None
    except SystemExit as ended:
        assert ended.code == USAGE
        return None
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]


def together(lines):
    """Join command lines that share no flag, so that fewer have to be read: [(line, its number of flags)]."""
    joined = []
    for line in lines:
        names = {word for word in line if word.startswith("--")}
        for known, argv in joined:
            if not known & names:
                known |= names
                argv += line
                break
        else:
            joined.append((names, list(line)))
    return joined


def test_what_is_as_is_or_to_be_typed_instead_is_understood_without_a_word(capsys):
    for cls in COMMANDS.values():
        own = [words(theirs) for asked, theirs, here, _ in ROWS if asked is cls and here == "as is"]
        instead = [words(here) for asked, _, here, _ in ROWS if asked is cls and here.startswith("`")]
        assert own
        for _, argv in [*together(own), *together(instead)]:
            assert notes(cls, argv, capsys) == [], argv


def test_what_is_passed_over_says_so(capsys):
    for cls in COMMANDS.values():
        lines = [words(theirs) for asked, theirs, here, _ in ROWS if asked is cls and here == "passed over"]
        for names, argv in together(lines):
            assert len(notes(cls, argv, capsys)) == len(names), argv


def test_what_is_refused_or_replaced_is_not_taken(capsys):
    seen = 0
    for cls, theirs, here, note in ROWS:
        if here in ("as is", "passed over") or theirs.strip("`") in SAME_NAME:
            continue
        assert here in ("refused", "nothing") or here.startswith("`"), here
        assert notes(cls, words(theirs), capsys) is None, theirs
        assert here != "refused" or note, theirs
        seen += 1
    assert seen > 80


def test_each_system_has_its_table():
    assert len(HEADINGS) == 12 and len(ROWS) > 180
    for name in ("PaddleMIX", "Curr-ReFT", "verl", "EasyR1", "VisualThinker", "VLM-R1", "R1-V", "TRL"):
        assert re.search(rf"^## .*{name}", TEXT, re.M), name


def test_a_key_of_another_program_is_met_with_the_page_that_knows_it():
    with pytest.raises(Stop, match=r"docs/migration\.md"):
        parse(GrpoConfig, ["algorithm.adv_estimator=grpo"], "r1-mllm")


def test_the_page_has_its_blocks():
    assert blocks(ROOT / PAGE)
