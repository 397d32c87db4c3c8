# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles as far as they can be checked without Docker."""

import json
import re
import shlex

import pytest

from .parsing import settings
from .reading import ROOT

FILES = sorted((ROOT / "docs/docker").glob("Dockerfile.*"))
KNOWN = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"}


def instructions(path):
    """(instruction, arguments) of a Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line]


def test_there_is_one_for_each_kind_of_machine_and_both_say_that_they_were_not_run():
    assert [path.name for path in FILES] == ["Dockerfile.cpu", "Dockerfile.gpu"]
    assert all("NOT RUN" in path.read_text(encoding="utf-8") for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_enough(path):
    copied = [word for name, words in instructions(path) for word in words.split()[:-1] if name == "COPY"]
    assert copied and not [word for word in copied if not (ROOT / word).exists()]
    assert {"pyproject.toml", "README.md", "LICENSE", "r1_mllm", "scripts", "eval", "configs"} <= set(copied)
    assert {name for name, _ in instructions(path)} <= KNOWN
    order = [(name, words) for name, words in instructions(path) if "r1_mllm ./" in words or " -e " in words]
    assert order[0][0] == "COPY" and order[1][0] == "RUN"  # the package is there when it is installed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_installed_is_declared(path):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (extras,) = re.findall(r'-e "\.\[([\w,]+)\]"', path.read_text(encoding="utf-8"))
    assert not [extra for extra in extras.split(",") if not re.search(rf"^{extra} = \[", project, re.M)]
    assert ("cpu" in extras.split(",")) == (path.suffix == ".cpu")
    assert ("paddlepaddle-gpu>=3.1,<4" in path.read_text(encoding="utf-8")) == (path.suffix == ".gpu")
    (image,) = [words for name, words in instructions(path) if name == "FROM"]
    version = tuple(map(int, re.search(r"python:(\d+)\.(\d+)", image).groups()))
    assert (3, 10) <= version < (3, 14)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_their_commands_are_understood(path, tmp_path):
    entry = [json.loads(words) for name, words in instructions(path) if name in ("ENTRYPOINT", "CMD")]
    words = [word for part in entry for word in part]
    assert words == ["r1-mllm", "--help"]
    comment = re.sub(r"\\\n# +", " ", path.read_text(encoding="utf-8"))
    typed = re.findall(r"^# +docker run (.*)$", comment, re.M)
    assert typed
    for line in typed:
        words = shlex.split(line)
        rest = words[words.index(f"r1-mllm:{path.suffix[1:]}") + 1 :]
        if rest[0] == "sh":
            assert (ROOT / rest[1].removeprefix("/opt/r1_mllm/")).is_file()
            settings(["grpo", *rest[2:]])
        else:
            settings(rest)
