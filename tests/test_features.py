# SPDX-License-Identifier: Apache-2.0
"""docs/features.md against the code: every test it names exists, every Y has a command and a test."""

import ast
import re
from pathlib import Path

import pytest

from r1_mllm import cli

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/features.md").read_text(encoding="utf-8")


def functions(path):
    """Names of the test functions of a file, those inside classes as well."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def table(heading):
    """Cells of the rows of the first table after a heading, its two head lines left out."""
    lines = PAGE[PAGE.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : end]]


def test_every_test_that_is_named_exists():
    named = set(re.findall(r"`(tests/[\w/.-]+\.py)::(\w+)`", PAGE))
    assert len(named) > 60
    missing = [
        f"{path}::{name}" for path, name in sorted(named) if not (ROOT / path).is_file() or name not in functions(path)
    ]
    assert not missing


def test_every_feature_that_is_there_has_a_command_and_a_test():
    rows = table("# Features")
    assert len(rows) >= 46 and {len(row) for row in rows} == {11}
    bare = [row[0] for row in rows if row[8].startswith("Y") and not (row[9] and "::" in row[10])]
    assert not bare


def test_every_expectation_of_users_is_answered_with_a_command_and_a_test():
    rows = table("## What users of trainers expect")
    assert len(rows) == 17 and {len(row) for row in rows} == {10}
    assert not [row[0] for row in rows if not re.match(r"[YPN]\b", row[7]) or "::" not in row[9] or not row[8]]
    assert not [row[0] for row in rows if row[7] in ("P", "N")]  # what is missing is said


def test_every_row_of_the_conformance_list_is_there():
    rows = table("## Conformance")
    assert len(rows) == 27
    assert not [row[0] for row in rows if "::" not in row[2]]


@pytest.mark.parametrize("folder", ["scripts", "eval", "configs"])
def test_every_script_that_is_named_is_there(folder):
    named = re.findall(rf"`(?:\S+ )*({folder}/[\w.-]+\.(?:sh|py|yaml))", PAGE)
    assert named or folder == "configs"
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_command_that_is_named_is_there():
    seconds = "|".join(sorted({name.split()[1] for name in cli.COMMANDS if " " in name} | {"sft"}))
    named = set(re.findall(rf"`r1-mllm ([a-z]+(?: (?:{seconds})\b)?)", PAGE))
    assert named and not named - set(cli.COMMANDS)
