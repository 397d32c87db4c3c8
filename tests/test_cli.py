# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from r1_mllm import cli, runtime

ROOT = Path(__file__).resolve().parents[1]


def run(*words, **options):
    """Run `python -m r1_mllm` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "r1_mllm", *words], capture_output=True, text=True, timeout=120, cwd=ROOT, **options
    )


@pytest.mark.parametrize("command", ["", "grpo", "data", "data synthesize"])
def test_help_answers_at_once_and_without_paddle(command, tmp_path):
    (tmp_path / "paddle.py").write_text("raise SystemExit('paddle was imported')")
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        done = run(*command.split(), "--help", env={**os.environ, "PYTHONPATH": str(tmp_path)})
        seconds.append(time.monotonic() - start)
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr
    assert min(seconds) < 2  # about 0.3 s on a quiet machine


def test_every_command_is_listed_and_its_module_is_there():
    told = run("--help").stdout
    for name, command in cli.COMMANDS.items():
        assert name in told and command.summary in told
        assert find_spec(f"r1_mllm.{command.module}") is not None, name


def test_a_mistyped_command_is_met_with_the_nearest_one():
    done = run("gpro", "--max_steps", "3")
    assert done.returncode == runtime.USAGE and done.stderr == "r1-mllm: error: no command 'gpro'; did you mean grpo?\n"


def test_a_mistyped_flag_is_met_with_the_nearest_one_before_anything_loads():
    done = run("grpo", "--num_generation", "4")
    assert done.returncode == runtime.USAGE and "did you mean --num_generations?" in done.stderr


def test_the_settings_that_were_chosen_are_shown(capsys):
    cli._print_settings({"output_dir": "out", "beta": 0.1, "seed": 1}, {"output_dir": "x", "beta": 0.04, "seed": 1})
    assert capsys.readouterr().out.splitlines()[1:] == ["  output_dir: out", "  beta: 0.1"]


def test_recorded_outputs_are_scored_from_the_command_line(tmp_path):
    rows = [{"model_output": "<think>a</think><answer> 4 </answer>", "ground_truth": gold} for gold in (4, 4, 4, 9)]
    file = tmp_path / "outputs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = json.loads(run("score", "--task", "count", str(file)).stdout)
    assert (scored["accuracy"], scored["num"]) == (75.0, 4) and scored["interval"][0] < 75 < scored["interval"][1]


def test_a_missing_file_is_one_line():
    done = run("score", "--task", "count", "nowhere.jsonl")
    assert done.returncode == runtime.DATA
    assert done.stderr.startswith("r1-mllm: error:") and len(done.stderr.splitlines()) == 1


def test_scenes_are_written_from_the_command_line(tmp_path):
    words = ["--task", "rec", "--num", "3", "--num-test=2", "--out", str(tmp_path)]
    done = run("data", "synthesize", *words)
    train, test = (Path(line) for line in done.stdout.split())
    assert (len(json.loads(train.read_text())), len(json.loads(test.read_text()))) == (3, 2)


def test_output_into_a_closed_pipe_is_no_traceback():
    process = subprocess.Popen(
        f"{sys.executable} -m r1_mllm grpo --help | head -n 1", shell=True, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.communicate(timeout=60)[1] == ""


def test_a_command_without_memory_ends_with_its_code_and_what_to_turn(monkeypatch, capsys):
    def fail(argv):
        raise MemoryError("(ResourceExhausted) Fail to alloc memory of 4096 size\n  [Hint: ...]")

    monkeypatch.setitem(cli.COMMANDS, "eval", cli.Command("evaluate", fail, ""))
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", "--model_path", "m", "--batch_size", "64", "--max_pixels=9000"])
    first, second = capsys.readouterr().err.splitlines()
    assert ended.value.code == runtime.MEMORY == 79
    assert first == "r1-mllm: error: out of memory: (ResourceExhausted) Fail to alloc memory of 4096 size"
    assert (
        "--batch_size 64 (" in second and "--max_new_tokens (its default)" in second and "--max_pixels 9000 (" in second
    )
