# SPDX-License-Identifier: Apache-2.0
"""Every page of the documentation: its commands are understood, its links lead somewhere, its needs are marked."""

import json
import re

import pytest
import yaml

from r1_mllm import cli
from r1_mllm.runtime import Stop

from .parsing import check, flags_of
from .reading import FENCE, ROOT, SHELLS, Block, anchors, blocks, lines, links, needs, pages, rows

ALL = [line for page in reversed(pages()) for block in blocks(page) for line in lines(block)]
LINES = list({(str(line.variables), line.words): line for line in ALL}.values())
"""Each command line once, wherever it stands first."""


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_line_is_understood(line, tmp_path):
    check(line, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "r1-mllm grpo --num_generation 4",
        "r1-mllm grpo --num_generations many",
        "r1-mllm grpo --loss_type gro",
        "r1-mllm serve --port x --model_path m",
        "r1-mllm train",
        "bash scripts/run_grpo_rec.sh --max_step 3",
        "python eval/test_rec.py --model m",
        "python eval/test_nothing.py",
        "scripts/nothing.sh",
    ],
)
def test_what_is_not_understood_is_noticed(words, tmp_path):
    (line,) = lines(Block("page.md", 1, "", words + "\n", "", ""))
    with pytest.raises((AssertionError, Stop)):
        check(line, tmp_path)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_leads_to_a_page_and_a_heading(page):
    for target, anchor in links(page):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {target}"
        assert ROOT in file.parents or file == ROOT
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}#{anchor}"


def executed(line):
    """The four commands of the README that tests/evaluation/test_command.py runs on data in miniature."""
    return any(word.startswith("paddlemix/examples/r1_mllm/eval/") for word in line.words)


MARKS = {"GPU": "GPU", "network": r"network|index|download|网络|索引|下载"}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_needs_a_gpu_or_the_network_says_so(page):
    unmarked = []
    for block in blocks(page):
        around = block.before + block.text + block.after
        wanted = set().union(*(needs(line) for line in lines(block) if not executed(line)))
        unmarked += [f"{block.place}: {need}" for need in wanted if not re.search(MARKS[need], around)]
    assert not unmarked


QUOTED = {
    words: f"{page.name}: {words}"
    for page in reversed(pages())
    for words in re.findall(r"`r1-mllm ([a-z][^`\n]*)`", FENCE.sub("", page.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize("words", QUOTED, ids=QUOTED.values())
def test_every_command_in_running_text_has_known_flags(words):
    found = words.replace("[", " ").split()
    known = flags_of(tuple(word for word in found[:2] if re.fullmatch(r"-?-?[a-z]+", word)))
    typed = {word.replace("-", "_") for word in re.findall(r"(?<=--)[A-Za-z][\w-]*", words)}
    assert not typed - known, words


ELSEWHERE = {"r1_mllm/tasks/colour.py", "scripts/model_merger.py"}
"""A file the reader writes, and one of another project."""


def test_every_file_and_test_that_is_named_is_there():
    lost = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"`((?:r1_mllm|docs|configs|scripts|eval|tests)/[\w/.-]+\.\w+)(?:::(\w+))?", text))
        for file, test in sorted(named):
            path = ROOT / file
            if file not in ELSEWHERE and not path.is_file():
                lost.append(f"{page.name}: {file}")
            elif test and f"def {test}(" not in path.read_text(encoding="utf-8"):
                lost.append(f"{page.name}: {file}::{test}")
    assert not lost


def test_every_command_has_a_test_that_does_its_work():
    table = rows("docs/features.md", "## Every command and a test")
    assert [row[0] for row in table] == [f"`r1-mllm {name}`" for name in cli.COMMANDS]
    assert not [row[0] for row in table if "::test_" not in row[1]]


def test_every_flag_in_the_table_of_features_is_known():
    text = (ROOT / "docs/features.md").read_text(encoding="utf-8")
    quoted = [words for words in re.findall(r"`([^`\n]*)`", text) if words.startswith("--")]
    typed = {flag.replace("-", "_") for words in quoted for flag in re.findall(r"(?<=--)[A-Za-z][\w-]*", words)}
    assert len(typed) > 40
    assert not typed - flags_of(("grpo",)) - flags_of(("eval",)) - flags_of(("serve",)) - flags_of(("passk",))


def test_the_index_names_every_page():
    listed = {target for target, _ in links(ROOT / "docs/README.md")}
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert listed == there


def test_examples_in_other_languages_can_be_read():
    seen = set()
    for block in (block for page in pages() for block in blocks(page)):
        seen.add(block.language)
        if block.language == "python":
            compile(block.text, block.place, "exec")
        elif block.language == "yaml":
            assert yaml.safe_load(block.text), block.place
        elif block.language == "json":
            for line in block.text.splitlines():
                assert json.loads(line), block.place
    assert {"python", "yaml", "json", "diff"} <= seen <= {"python", "yaml", "json", "diff", *SHELLS}
