# SPDX-License-Identifier: Apache-2.0
"""Every flag of every command says in --help what it is for."""

import json
import os
import re
import subprocess
import sys

import pytest

from r1_mllm import cli, runtime

FLAG = re.compile(r"(?:-h, )?--(\w+)(?: .*)?$")
OF_ANOTHER_FORM = ("curriculum", "curriculum compare")
"""Their help is the form of the file they read."""


ALL = """
import contextlib, io, json, sys
sys.modules["paddle"] = None  # whoever imports it fails
from r1_mllm import cli

found = {}
for name in cli.COMMANDS:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main([*name.split(), "--help"])
    found[name] = out.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps():
    """Command -> its help, all from one process that has no Paddle."""
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", ALL], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def explanations(text):
    """Flag -> what the help says of it, without the kind of its value and its default."""
    found, name, indent = {}, None, 0
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        if match := FLAG.match(line.strip()):
            name, indent = match[1], depth
            found[name] = re.split(r" {2,}", line.strip(), maxsplit=1)[1:]
        elif name and depth > indent and line.strip():
            found[name].append(line.strip())
        else:
            name = None
    return {name: re.sub(r"\(default: .*\)|\(required\)", "", " ".join(words)).strip() for name, words in found.items()}


def test_what_is_not_explained_is_seen():
    text = "options:\n  --one INT    (default: 1)\n  --two {a,b}\n      What it does. (default: a)\n  --three X\nrest\n"
    assert explanations(text) == {"one": "", "two": "What it does.", "three": ""}


def test_no_flag_is_without_a_word(helps):
    assert set(helps) == set(cli.COMMANDS)
    found = {name: explanations(text) for name, text in helps.items() if name not in OF_ANOTHER_FORM}
    assert all("help" in flags for flags in found.values())
    silent = [f"{name} --{flag}" for name, flags in found.items() for flag, words in flags.items() if not words]
    assert not silent


def test_a_dry_run_of_any_command_shows_its_settings_and_ends(capsys, monkeypatch):
    monkeypatch.setattr(runtime, "require_paddle", lambda: pytest.fail("it went on"))
    for command in (
        "serve --model_path nowhere --port 9",
        "quickstart --seed 3",
        "export --out x --checkpoint nowhere",
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command.split(), "--dry_run"])
        name, value = command.split()[-2:]
        assert ended.value.code == 0
        assert [name[2:], value, "[flag]"] in [line.split() for line in capsys.readouterr().out.splitlines()[:4]]


def test_the_curriculum_explains_its_own_flags(helps):
    for name in OF_ANOTHER_FORM:
        assert "--config FILE  " in helps[name] and "--until STAGE  " in helps[name]
