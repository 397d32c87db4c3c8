# SPDX-License-Identifier: Apache-2.0
"""Command lines of the documentation, read by the program's own parsers and stopped where it would begin to work."""

import argparse
import contextlib
import functools
import io
import os
import re
import runpy
import subprocess
import sys
import typing
from pathlib import Path
from unittest import mock

from r1_mllm import cli, runtime
from r1_mllm.config import flags
from r1_mllm.config.legacy_flags import LEGACY, RENAMED

from .reading import ROOT

STAND_INS = {"N": "7", "STAGE": "judge", "TASK": "counting", "PARSER": "images", "S": "3"}
"""What the pages write where a reader puts something else."""
ZERO = ROOT / "tests/data_files/deepspeed"
CONFIGS = {"curriculum": "configs/curriculum.yaml", "sft": "configs/sft_3b.yaml"}
STUB = """#!/bin/sh
if [ "$1" = -c ]; then exit 0; fi
for word in "$@"; do printf '%s\\n' "$word"; done >> "$CALLS"
echo "--end" >> "$CALLS"
"""
DATA = ("REC", "Counting/clevr_cogen_a_train", "GEO/GEOQA_R1V_Train_8K", "SAT/SAT_train.parquet")
DATA += ("SAT/SAT_train_15000.jsonl", "SFT_data/sft/train_cla_det_math_.jsonl")


MANY = 60
"""Fields above which values are checked here."""


class Understood(BaseException):
    """The command line was read to its end; holds the settings."""


@contextlib.contextmanager
def only_reading():
    """Let every parser raise Understood with what it read."""
    real_cli, real_args = flags.tyro.cli, argparse.ArgumentParser.parse_args
    inside = []

    def read_settings(cls, **options):
        if len(flags.leaf_types(cls)) > MANY and options["args"] != ["--help"]:
            _check_values(flags.leaf_types(cls), options["args"])
            raise Understood(cls)
        inside.append(1)
        try:
            made = real_cli(cls, **options)
        finally:
            inside.pop()
        raise Understood(made)

    def read_args(parser, *given, **options):
        made = real_args(parser, *given, **options)
        if inside:
            return made
        raise Understood(made)

    with (
        mock.patch.object(flags.tyro, "cli", read_settings),
        mock.patch.object(argparse.ArgumentParser, "parse_args", read_args),
        mock.patch.object(runtime, "require_paddle"),
        mock.patch.object(runtime, "check_device"),
    ):
        yield


def _check_values(kinds, argv):
    """Check values against the fields' types, in a thousandth of the time that tyro takes for so many."""
    given = []
    for word in argv:
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            given.append((name, [value] if has_value else []))
        else:
            given[-1][1].append(word)
    for name, values in given:
        assert values and all(_fits(kinds[name], value) for value in values), (name, values)


def _fits(kind, word):
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return word in map(str, inner)
    if inner:  # X | None, tuple[X, ...]
        return any(_fits(part, word) for part in inner if part is not Ellipsis)
    if kind is type(None):
        return word == "None"
    with contextlib.suppress(ValueError):
        return word in ("True", "False") if kind is bool else kind(word) is not None
    return False


def settings(words):
    """What `r1-mllm WORDS` reads off its command line; Stop or SystemExit where it is refused."""
    return _told(lambda: cli.main(_filled(list(words))))


def script_settings(path, words):
    """The same for a Python file of the tree."""

    def run():
        with (
            mock.patch.object(sys, "argv", [str(path), *_filled(list(words))]),
            mock.patch.object(sys, "path", sys.path[:]),
        ):
            runpy.run_path(str(path), run_name="__main__")

    return _told(run)


def _told(run):
    with only_reading():
        try:
            run()
        except Understood as understood:
            return understood.args[0]
        except SystemExit as ended:
            if ended.code in (None, 0):  # --help
                return None
            raise AssertionError(f"refused with {ended.code}") from None
    return None


def _filled(words):
    """Put something real for what the pages leave to the reader."""
    text = "\n".join(words)
    text = re.sub(r"\[(?!-)[^\]\n]*(\n[^\]\n]*)*\](?=\n|$)", "", text)  # [flags of ...]
    words = [word.strip("[]") for word in text.split("\n") if word]
    words = [STAND_INS.get(word, word) for word in words]
    for i, word in enumerate(words[:-1]):
        if word == "--config" and not (ROOT / words[i + 1]).is_file():
            words[i + 1] = CONFIGS.get(words[0], "configs/grpo_rec_3b.yaml")
        if word == "--config":
            words[i + 1] = str(ROOT / words[i + 1])
        if word == "--deepspeed" and words[i + 1].endswith(".json"):
            words[i + 1] = str(ZERO / Path(words[i + 1]).name)
    return words


def script_calls(folder, script, words, variables, gpus=8):
    """What a shell script of the tree calls Python with, call by call, on a machine with so many GPUs."""
    commands = folder / "bin"
    commands.mkdir(parents=True, exist_ok=True)
    for name in DATA:
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    for name, text in {"python": STUB, "nvidia-smi": "#!/bin/sh\n" + "echo 'GPU 0: some card'\n" * gpus}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    data = variables.get("DATASET", "")
    if data and not (folder / data).exists():
        (folder / data).parent.mkdir(parents=True, exist_ok=True)
        (folder / data).touch()
    variables = {name: str(ROOT / value) if (ROOT / value).is_file() else value for name, value in variables.items()}
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "CALLS": str(calls), "HOME": str(folder), **variables}
    done = subprocess.run(
        ["sh", str(ROOT / script), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    text = calls.read_text() if calls.exists() else ""
    return [call.splitlines() for call in text.split("--end\n") if call]


def check(line, folder):
    """Check that one line is understood: its file exists, its flags parse; False for other people's programs."""
    words = list(line.words)
    while words and words[0] in ("bash", "sh") and len(words) > 1:
        words = words[1:]
    program = words[0]
    if program == "r1-mllm":
        settings(words[1:])
    elif program.startswith("scripts/"):
        assert (ROOT / program).is_file() and os.access(ROOT / program, os.X_OK | os.R_OK), program
        _check_script(program, words[1:], line.variables, folder)
    elif program in ("python", "python3"):
        return _check_python(words[1:])
    elif program == "pytest":
        assert not [w for w in words[1:] if w.startswith("tests/") and not (ROOT / w.split("::")[0]).exists()], line
    else:
        return False
    return True


def _check_script(script, words, variables, folder):
    if Path(script).name in ("test.sh", "soak.sh", "quickstart.sh") or script.startswith("scripts/bench"):
        gpus = 0
    else:
        gpus = 0 if "no_gpu" in variables else 8
    if script in ("scripts/bench_vs_peer.sh", "scripts/compare_curriculum.sh"):
        return  # they need what their first call leaves
    for call in script_calls(folder, script, words, variables, gpus):
        while "r1_mllm" in call and call[0] == "-m" and call[1] == "paddle.distributed.launch":
            call = call[call.index("r1_mllm") - 1 :]
        _check_python(call)


def _check_python(words):
    """Check what follows the word python."""
    if words[:2] == ["-m", "paddle.distributed.launch"] or words[:2] == ["-m", "r1_mllm"]:
        if "r1_mllm" not in words:
            return False
        settings(words[words.index("r1_mllm") + 1 :])
        return True
    if words[:1] == ["-m"] or words[:1] == ["-c"]:
        return words[1] == "pytest"
    path = words[0].removeprefix("paddlemix/examples/r1_mllm/")
    path = Path(path) if Path(path).is_absolute() else ROOT / path
    if not path.is_file() and words[0].startswith(("eval/", "scripts/", "tests/")):
        raise AssertionError(f"{words[0]} is not there")
    if not path.is_file():
        return False
    if path.parent.name in ("eval", "lmms_tasks") or "argparse" in path.read_text(encoding="utf-8"):
        if "torch" not in path.read_text(encoding="utf-8"):
            script_settings(path, words[1:])
    return True


@functools.cache
def flags_of(words):
    """The flags that the command at the head of these words knows, from its help; those of other programs as well."""
    names = [name for name in cli.COMMANDS if (*name.split(),) == words[: len(name.split())]]
    assert names or words[0].startswith("-") or any(name.startswith(f"{words[0]} ") for name in cli.COMMANDS), words
    if not names:
        return {"help", "version"}
    name = max(names, key=len)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        settings([*name.split(), "--help"])
    known = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w-]*)", told.getvalue())}
    if name.startswith(("curriculum", "bench scaling", "bench sizing")):
        known |= flags_of(("grpo",)) | {"config", "until"}
    return known | {"dry_run", "config", "help", *LEGACY, *RENAMED}
