# SPDX-License-Identifier: Apache-2.0
"""Every page of the documentation: its commands are understood, its links lead somewhere, its needs are marked."""

import re

import pytest

from r1_mllm import cli

from .parsing import check, flags_of
from .reading import FENCE, ROOT, anchors, blocks, lines, links, needs, pages, rows

LINES = [line for page in pages() for block in blocks(page) for line in lines(block)]


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_line_is_understood(line, tmp_path):
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


QUOTED = [
    (f"{page.name}: {words}", words)
    for page in pages()
    for words in dict.fromkeys(re.findall(r"`r1-mllm ([a-z][^`\n]*)`", FENCE.sub("", page.read_text(encoding="utf-8"))))
]


@pytest.mark.parametrize("words", [words for _, words in QUOTED], ids=[name for name, _ in QUOTED])
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
