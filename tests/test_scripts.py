# SPDX-License-Identifier: Apache-2.0
"""The shell scripts, with a Python and an nvidia-smi that only write down how they were called."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from r1_mllm import __version__
from r1_mllm.config import GrpoConfig, SftConfig
from r1_mllm.config.flags import parse

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
GRPO = [(f"run_grpo_{task}.sh", task) for task in ("rec", "counting", "geometry")] + [("run_grpo_sat.sh", "spatial")]
STUB = """#!/bin/sh
if [ "$1" = -c ]; then exit 0; fi
for word in "$@"; do printf '%s\\n' "$word"; done >> "$CALLS"
echo "--end" >> "$CALLS"
if [ -s "$CODES" ]; then code=$(head -n 1 "$CODES"); sed -i 1d "$CODES"; exit "$code"; fi
"""


class Machine:
    """A folder with a working directory and commands of its own."""

    def __init__(self, folder, gpus):
        self.folder, self.calls, self.codes = folder, folder / "calls", folder / "codes"
        commands = folder / "bin"
        commands.mkdir()
        (folder / "data").touch()
        self._command(commands / "python", STUB)
        self._command(commands / "nvidia-smi", "#!/bin/sh\n" + f"echo 'GPU {0}: some card'\n" * gpus)
        path = f"{commands}:/usr/bin:/bin"
        self.environment = {"PATH": path, "CALLS": str(self.calls), "CODES": str(self.codes), "HOME": str(folder)}

    def _command(self, path, text):
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script, *words, shell="sh", **variables):
        """Run a script from the folder; return the process and what Python was called with, call by call."""
        done = subprocess.run(
            [shell, str(SCRIPTS / script), *words],
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        text = self.calls.read_text() if self.calls.exists() else ""
        return done, [call.splitlines() for call in text.split("--end\n") if call]


@pytest.fixture
def cpu(tmp_path):
    return Machine(tmp_path, gpus=0)


@pytest.fixture
def eight_gpus(tmp_path):
    return Machine(tmp_path, gpus=8)


def flags(call):
    """The words after the command, as flag -> value; the last time counts."""
    words = call[call.index("r1_mllm") + 2 :]
    return {word[2:]: words[i + 1] for i, word in enumerate(words) if word.startswith("--") and i + 1 < len(words)}


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(("script", "task"), GRPO)
def test_without_a_gpu_and_arguments_the_embedded_default_runs_and_the_first_line_says_so(cpu, shell, script, task):
    done, calls = cpu.run(script, shell=shell)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"No GPU here and nothing else given: running the embedded default for {task} ")
    assert calls == [["-m", "r1_mllm", "quickstart", "--task", task]]


def test_the_embedded_default_writes_where_it_is_told(cpu):
    _, calls = cpu.run("run_grpo_rec.sh", OUTPUT_DIR="my runs/1")
    assert calls == [["-m", "r1_mllm", "quickstart", "--task", "rec", "--output_dir", "my runs/1"]]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_eight_gpus_train_what_the_table_says(eight_gpus, shell):
    done, (call,) = eight_gpus.run("run_grpo_rec.sh", shell=shell)
    assert done.returncode == 0, done.stderr
    assert call[:6] == ["-m", "paddle.distributed.launch", "--nproc_per_node", "8", "--run_mode", "collective"]
    assert "--backend" not in call and call[8:12] == ["python", "-m", "r1_mllm", "grpo"]
    expected = {
        "task": "rec",
        "model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct",
        "dataset_name": str(ROOT / "configs" / "rec.yaml"),
        "image_root": "data/REC",
        "output_dir": "work_dirs/Qwen2.5-VL-3B-GRPO-REC_8GPUS",
        "num_generations": "8",
        "per_device_train_batch_size": "2",
        "gradient_accumulation_steps": "1",
        "max_prompt_length": "1024",
        "max_completion_length": "256",
        "max_steps": "500",
        "bf16": "True",
        "recompute": "True",
        "freeze_vision": "False",
    }
    found = flags(call)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("script", "frozen"), [("run_grpo_counting.sh", "False"), ("run_grpo_geometry.sh", "True")])
def test_counting_and_geometry_train_the_small_model(eight_gpus, script, frozen):
    _, (call,) = eight_gpus.run(script, DATASET="data")
    found = flags(call)
    assert found["model_name_or_path"] == "Qwen/Qwen2-VL-2B-Instruct" and found["freeze_vision"] == frozen
    assert (found["max_pixels"], found["max_prompt_length"], found["max_completion_length"]) == ("401408", "512", "512")
    assert found["gradient_accumulation_steps"] == "2"  # 16 prompts / (1 per device x 8)


def test_the_variables_reach_the_trainer_and_flags_win(cpu):
    variables = {"GPUS": "1", "BATCH_SIZE": "12", "PER_DEVICE_BATCH_SIZE": "3", "NUM_GENERATIONS": "5", "MODEL": "m m"}
    variables |= {"DATASET": "data", "IMAGE_ROOT": "pictures", "OUTPUT_DIR": "out"}
    done, (call,) = cpu.run("run_grpo_rec.sh", "--max_steps", "3", "--system_prompt", "two words", **variables)
    assert done.returncode == 0, done.stderr
    found = flags(call)
    assert call[:3] == ["-m", "r1_mllm", "grpo"] and found["gradient_accumulation_steps"] == "4"
    assert (found["model_name_or_path"], found["num_generations"], found["image_root"]) == ("m m", "5", "pictures")
    assert (found["output_dir"], found["max_steps"], found["system_prompt"]) == ("out", "3", "two words")
    assert found["bf16"] == "False"  # no GPU


def test_a_batch_smaller_than_the_devices_still_takes_a_step(eight_gpus):
    _, (call,) = eight_gpus.run("run_grpo_rec.sh", BATCH_SIZE="4")
    assert flags(call)["gradient_accumulation_steps"] == "1"


def test_several_machines_meet_at_the_master(eight_gpus):
    variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "6170", "GPUS": "4"}
    _, (call,) = eight_gpus.run("run_grpo_rec.sh", **variables)
    launcher = call[2 : call.index("python")]
    given = dict(zip(launcher[::2], launcher[1::2], strict=True))
    assert given["--master"] == "10.0.0.7:6170" and (given["--nnodes"], given["--rank"]) == ("2", "1")
    assert given["--nproc_per_node"] == "4" and flags(call)["gradient_accumulation_steps"] == "1"


def test_a_run_that_dies_is_restarted_from_its_checkpoint_so_often_and_no_more(cpu):
    cpu.codes.write_text("1\n1\n1\n")
    done, calls = cpu.run("run_grpo_rec.sh", "--overwrite_output_dir", "True", DATASET="data", RESTARTS="2")
    assert done.returncode == 1 and len(calls) == 3
    assert "overwrite_output_dir" in flags(calls[0]) and flags(calls[0])["overwrite_output_dir"] == "True"
    for call in calls[1:]:
        assert flags(call)["overwrite_output_dir"] == "False" and flags(call)["resume_from_checkpoint"] == "auto"
        assert call.count("--resume_from_checkpoint") == 1


def test_wrong_settings_are_not_tried_again(cpu):
    cpu.codes.write_text("64\n")
    done, calls = cpu.run("run_grpo_rec.sh", DATASET="data", RESTARTS="5")
    assert done.returncode == 64 and len(calls) == 1


def test_a_missing_data_set_names_the_command_that_gets_it(cpu):
    done, calls = cpu.run("run_grpo_counting.sh", "--max_steps", "1")
    assert done.returncode == 65 and not calls
    assert "data/Counting/clevr_cogen_a_train is not there" in done.stderr and "data prepare counting" in done.stderr


def test_help_needs_neither_data_nor_launcher(eight_gpus):
    _, calls = eight_gpus.run("run_grpo_geometry.sh", "--help")
    assert calls == [["-m", "r1_mllm", "grpo", "--help"]]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_supervised_fine_tuning_has_an_embedded_default_of_its_own(cpu, shell):
    done, calls = cpu.run("run_sft.sh", shell=shell, OUTPUT_DIR="out")
    assert done.returncode == 0 and done.stdout.startswith("No GPU here and nothing else given: running the embedded")
    assert calls == [["-m", "r1_mllm", "quickstart", "sft", "--output_dir", "out"]]


def test_supervised_fine_tuning_passes_what_its_config_says(eight_gpus):
    data = "data/SFT_data/sft/train_cla_det_math_.jsonl"
    (eight_gpus.folder / "data").unlink()
    (eight_gpus.folder / data).parent.mkdir(parents=True)
    (eight_gpus.folder / data).touch()
    _, (call,) = eight_gpus.run("run_sft.sh", "--seed", "7", IMAGE_ROOT="pictures")
    words = call[call.index("sft") + 1 :]
    parsed = parse(SftConfig, words, "sft")
    assert (parsed.training.seed, parsed.data.image_root) == (7, "pictures")
    plain = parse(SftConfig, ["--config", str(ROOT / "configs" / "sft_3b.yaml"), "--seed", "7"], "sft")
    assert replace(parsed, data=replace(parsed.data, image_root=None)) == plain
    cured, calls = eight_gpus.run("run_sft.sh", DATASET="nothing.jsonl")
    assert cured.returncode == 65 and len(calls) == 1 and "docs/sft.md" in cured.stderr


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_sat_trains_a_base_model_in_the_r1_zero_form(eight_gpus, shell):
    done, (call,) = eight_gpus.run("run_grpo_sat.sh", "--max_steps", "5", shell=shell, GPUS="4")
    assert done.returncode == 0, done.stderr
    found = flags(call)
    expected = {
        "task": "sat",
        "chat_template": "r1_zero",
        "model_name_or_path": "Qwen/Qwen2-VL-2B",
        "dataset_name": str(ROOT / "configs" / "sat.yaml"),
        "gradient_accumulation_steps": "2",
        "max_completion_length": "700",
        "max_steps": "5",
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_sat_is_prepared_and_fine_tuned_on(cpu, shell):
    _, (call,) = cpu.run("prepare_sat.sh", "--from", "a b.zip", shell=shell)
    assert call == ["-m", "r1_mllm", "data", "prepare", "sat", "--from", "a b.zip"]
    done, calls = cpu.run("run_sft_sat.sh", shell=shell)
    assert done.stdout.startswith("No GPU here and nothing else given: running the embedded")
    assert calls[1] == ["-m", "r1_mllm", "quickstart", "sft", "--task", "spatial"]


def test_supervised_sat_writes_its_conversations_first(eight_gpus):
    (eight_gpus.folder / "data").unlink()
    (eight_gpus.folder / "data" / "SAT").mkdir(parents=True)
    done, calls = eight_gpus.run("run_sft_sat.sh")
    assert done.returncode == 65 and not calls and "data/SAT/SAT_train_15000.jsonl is not there" in done.stderr
    (eight_gpus.folder / "data" / "SAT" / "SAT_train.parquet").touch()
    _, (call,) = eight_gpus.run("run_sft_sat.sh")  # the stub writes no file, so that is all
    assert call[:4] == ["-m", "r1_mllm", "data", "messages"] and call[4] == str(ROOT / "configs" / "sat.yaml")
    (eight_gpus.folder / "data" / "SAT" / "SAT_train_15000.jsonl").touch()
    _, calls = eight_gpus.run("run_sft_sat.sh", "--seed", "7", GPUS="4")
    parsed = parse(SftConfig, calls[-1][calls[-1].index("sft") + 1 :], "sft")
    assert (parsed.optimizer.learning_rate, parsed.training.num_train_epochs, parsed.data.max_length) == (2e-5, 2, 1024)
    training = parsed.training
    assert (training.gradient_accumulation_steps, training.save_steps, training.logging_steps) == (2, 300, 5)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_test_command_leaves_out_what_is_slow_or_needs_more_and_passes_arguments(cpu, shell):
    done, (call,) = cpu.run("test.sh", "tests/answers", "-k", "a b", shell=shell)
    assert done.returncode == 0, done.stderr
    assert call == ["-m", "pytest", "-m", "not slow and not gpu and not oracle", "tests/answers", "-k", "a b"]


def test_quickstart_passes_its_flags(cpu):
    _, calls = cpu.run("quickstart.sh", "--smoke", shell="bash")
    assert calls == [["-m", "r1_mllm", "quickstart", "--smoke"]]


def test_rejection_fine_tuning_samples_first_and_flags_go_to_their_command(cpu, tmp_path):
    (tmp_path / "out/reject").mkdir(parents=True)
    (tmp_path / "out/reject/messages.jsonl").touch()
    variables = {"MODEL": "m m", "DATASET": "data", "OUTPUT_DIR": "out", "JUDGE_URL": "http://j/v1", "JUDGE_MODEL": "g"}
    words = ["--threshold", "9 0", "--", "--max_steps", "7"]
    done, (reject, sft) = cpu.run("run_reject_sft.sh", *words, IMAGE_ROOT="pictures", **variables)
    assert done.returncode == 0, done.stderr
    assert reject[:3] == ["-m", "r1_mllm", "reject"] and sft[:3] == ["-m", "r1_mllm", "sft"]
    reject, sft = flags(reject), flags(sft)
    assert (reject["threshold"], reject["judge_url"], reject["judge_model"]) == ("9 0", "http://j/v1", "g")
    assert (reject["image_root"], reject["output_dir"], reject["num_generations"]) == ("pictures", "out/reject", "8")
    assert "max_steps" not in reject and "threshold" not in sft and "image_root" not in sft
    assert (sft["max_steps"], sft["dataset_name"], sft["output_dir"]) == ("7", "out/reject/messages.jsonl", "out/sft")
    assert (sft["model_name_or_path"], sft["learning_rate"]) == ("m m", "2e-7")
    assert sft["gradient_accumulation_steps"] == "32"


def test_nothing_is_fine_tuned_when_no_answer_was_kept(cpu):
    cpu.codes.write_text("65\n")
    done, calls = cpu.run("run_reject_sft.sh", MODEL="m", DATASET="data")
    assert done.returncode == 65 and len(calls) == 1


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_table_of_referring_expressions_has_four_columns_and_two_models(eight_gpus, shell):
    done, calls = eight_gpus.run("eval_rec_table.sh", "--dtype", "float16", shell=shell, CHECKPOINT="my run/final")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 5 and all(call[0].endswith("eval/test_rec.py") for call in calls[:4])
    asked = [flags(["r1_mllm", *call]) for call in calls[:4]]
    models = [(one["model_path"], one["method"]) for one in asked]
    assert models == [("Qwen/Qwen2.5-VL-3B-Instruct", "baseline")] * 2 + [("my run/final", "r1")] * 2
    assert [one["image_root"] for one in asked] == ["data/coco", "data/refgta"] * 2
    assert {(one["sample_num"], one["seed"], one["num_processes"], one["dtype"]) for one in asked} == {
        ("500", "42", "8", "float16")
    }
    assert calls[0][-4:] == ["--test_datasets", "refcoco_val", "refcocop_val", "refcocog_val"]
    columns = calls[4][calls[4].index("--columns") + 1 : calls[4].index("--row")]
    titles = ["refcoco val", "refcoco+ val", "refcocog val", "RefGTA"]
    assert [column.split("=")[1] for column in columns] == titles
    done, _ = eight_gpus.run("eval_rec_table.sh", shell=shell)
    assert done.returncode == 64 and "set CHECKPOINT" in done.stderr


def test_without_a_gpu_the_table_and_rejection_run_their_embedded_defaults(cpu):
    done, calls = cpu.run("eval_rec_table.sh", NUM="4")
    assert done.returncode == 0 and done.stdout.startswith("No GPU here and nothing else given"), done.stderr
    assert [call[2] for call in calls] == ["quickstart", "data", "data", "data", "data", "eval", "eval", "table"]
    done, calls = cpu.run("run_reject_sft.sh", OUTPUT_DIR="o")
    assert done.stdout.startswith("No GPU here and nothing else given")
    assert calls[-1] == ["-m", "r1_mllm", "quickstart", "reject", "--output_dir", "o"]


@pytest.mark.slow
def test_the_embedded_table_is_printed_for_models_that_are_there(tmp_path):
    for name in ("warm_start", "final"):
        shutil.copytree(ROOT / "tests/golden/cases/e2e/checkpoint", tmp_path / "run" / name)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(tmp_path), "NUM": "3", "OUTPUT_DIR": "run"}
    command = ["sh", str(SCRIPTS / "eval_rec_table.sh")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| R1 - before |" in done.stdout and done.stdout.count("0.00 (0.00 to 56.15), n 3") == 8


def test_without_a_usable_python_an_environment_is_made_and_filled_once(cpu, tmp_path):
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    for name in ("common.sh", "quickstart.sh"):
        (copy / "scripts" / name).write_text((SCRIPTS / name).read_text())
    # this Python has no packages until `-m pip install` was called; `-m venv DIR` makes a copy of it
    stub = f"""#!/bin/sh
case "$*" in
    *find_spec*) [ -e {tmp_path}/installed ] && case "$0" in *.venv*) exit 0 ;; esac; exit 1 ;;
    -c*) exit 0 ;;
    "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install"*) [ -e {tmp_path}/tried ] || {{ touch {tmp_path}/tried; exit 1; }}; touch {tmp_path}/installed ;;
esac
printf '%s\\n' "$*" >> "$CALLS"
"""
    for name in ("python", "python3"):
        cpu._command(tmp_path / "bin" / name, stub)
    for _ in range(2):
        done = subprocess.run(
            ["sh", str(copy / "scripts" / "quickstart.sh")], env=cpu.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    calls = cpu.calls.read_text().splitlines()
    assert calls[0] == f"-m venv {copy}/.venv"
    assert [call for call in calls if "pip install" in call] == [
        f"-m pip install --quiet --disable-pip-version-check -e {copy}[cpu,dev,digits]"
    ]  # the one that failed wrote nothing down
    assert calls.count("-m r1_mllm quickstart") == 2


STAGES = [
    ("stage1_judge.sh", "judge", "4", "1"),
    ("stage2_choice.sh", "choice", "2", "1"),
    ("stage3_open.sh", "open", "4", "2"),
]


@pytest.mark.parametrize(("script", "form", "generations", "epochs"), STAGES)
def test_a_stage_trains_one_form_and_takes_the_predecessors_flags(eight_gpus, script, form, generations, epochs):
    words = "--save_only_model true --deepspeed zero3.json --dataset_name mine.yaml --num_train_epochs 3".split()
    done, (call,) = eight_gpus.run(script, *words)
    assert done.returncode == 0, done.stderr
    found = flags(call)
    assert call[call.index("r1_mllm") + 1] == "curriculum stage" and found["form"] == form
    assert (found["num_generations"], found["max_prompt_length"]) == (generations, "2048")
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == ("1", "1")
    assert (found["save_only_model"], found["deepspeed"], found["dataset_name"]) == ("true", "zero3.json", "mine.yaml")
    assert found["num_train_epochs"] == "3" and call[call.index("--num_train_epochs") + 1] == epochs


@pytest.mark.parametrize(("script", "form", "generations", "epochs"), STAGES)
def test_a_stage_without_a_gpu_runs_the_embedded_curriculum_up_to_itself(cpu, script, form, generations, epochs):
    done, (call,) = cpu.run(script)
    assert done.stdout.startswith("No GPU here") and call[:3] == ["-m", "r1_mllm", "curriculum"]
    assert call[-2:] == ["--until", form]


def test_a_curriculum_runs_embedded_on_a_cpu_and_from_a_file_on_two_nodes(cpu, tmp_path):
    done, (call,) = cpu.run("run_curriculum.sh", "--max_steps", "3", OUTPUT_DIR="out")
    assert done.stdout.startswith("No GPU here") and call[-4:] == ["--output_dir", "out", "--max_steps", "3"]
    assert call[4].endswith("configs/curriculum.yaml")
    variables = {"NNODES": "2", "NODE_RANK": "1", "GPUS": "8", "CONFIG": "c.yaml", "IMAGE_ROOT": "pictures"}
    _, (_, call) = cpu.run("run_curriculum.sh", **variables)
    inner = call[call.index("r1_mllm") + 1 :]
    assert inner == ["curriculum", "--config", "c.yaml", "--image_root", "pictures"]
    assert call[call.index("--nnodes") + 1] == "2" and call[call.index("--rank") + 1] == "1"


def test_a_comparison_runs_every_seed_and_then_joins_them(cpu):
    done, calls = cpu.run("compare_curriculum.sh", "--max_steps", "2", SEEDS="3 1 2", OUTPUT_DIR="out", JOBS="1")
    assert "on the CPU, seeds 3 1 2" in done.stdout.splitlines()[0]
    seeds = [call[call.index("--seed") + 1] for call in calls[:3]]
    assert seeds == ["3", "1", "2"] and all(call[-2:] == ["--max_steps", "2"] for call in calls[:3])
    assert calls[3] == ["-m", "r1_mllm", "curriculum", "table", "out"]


@pytest.mark.slow
def test_two_processes_train_through_the_script_and_the_same_command_has_nothing_left_to_do(tmp_path):
    words = ["--task", "rec", "--out", str(tmp_path), "--num", "12", "--num_test", "4"]
    subprocess.run([sys.executable, "-m", "r1_mllm", "data", "synthesize", *words], cwd=ROOT, check=True, timeout=60)
    model = ROOT / "tests" / "golden" / "cases" / "e2e" / "checkpoint"
    variables = {"GPUS": "2", "BATCH_SIZE": "4", "PER_DEVICE_BATCH_SIZE": "1", "NUM_GENERATIONS": "3"}
    variables |= {"MODEL": str(model), "DATASET": "train.json", "IMAGE_ROOT": str(tmp_path), "OUTPUT_DIR": "out"}
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path), **variables}
    command = ["sh", str(SCRIPTS / "run_grpo_rec.sh"), "--max_steps", "2", "--max_completion_length", "5"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps] == [1, 2]
    rows = [json.loads(line) for line in (tmp_path / "out" / "completions.jsonl").read_text().splitlines()]
    assert len(rows) >= 2 * 2 * 3  # rank 0's share: 2 steps, 2 prompts, 3 completions
    state = tmp_path / "out" / "checkpoint-2" / "state"
    assert {path.name for path in state.glob("rng-*")} == {"rng-rank000.json", "rng-rank001.json"}
    assert (tmp_path / "out" / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("script", [*sorted(path.name for path in SCRIPTS.glob("*.sh")), "../.ci/run"])
def test_every_script_is_plain_shell_without_paths_of_ours(script):
    path = SCRIPTS / script
    for shell in ("sh", "bash"):
        assert subprocess.run([shell, "-n", str(path)]).returncode == 0
    text = path.read_text()
    assert not re.search(r"/(home|root|work|tmp)/|pipefail|\[\[|^\s*local |^\s*function ", text, re.MULTILINE)
    assert os.access(path, os.X_OK) or path.name == "common.sh"


def test_the_package_and_its_metadata_agree_on_the_version():
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_requirements_say_what_pyproject_says():
    def pins(lines):
        return {re.sub(r"\s", "", line) for line in lines if line.strip() and not line.startswith("#")}

    project = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'"([^"]+)"', project.split("\ndependencies = [")[1].split("\n]")[0])
    cpu_extra = re.findall(r'"([^"]+)"', re.search(r"^cpu = \[(.*)\]", project, re.MULTILINE)[1])
    assert pins((ROOT / "requirements.txt").read_text().splitlines()) == pins(listed + cpu_extra)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_dapo_runs_the_embedded_default_without_a_gpu(cpu, shell):
    done, calls = cpu.run("run_dapo_math.sh", shell=shell)
    assert done.returncode == 0 and done.stdout.startswith("No GPU here and nothing else given"), done.stderr
    assert calls == [["-m", "r1_mllm", "quickstart", "--task", "math_boxed"]]


def test_dapo_on_8_gpus_passes_what_its_config_says(eight_gpus, monkeypatch):
    _, (call,) = eight_gpus.run("run_dapo_math.sh")
    words = call[call.index("grpo") + 1 :]
    monkeypatch.chdir(ROOT)
    typed = parse(GrpoConfig, words, "grpo")
    named = parse(GrpoConfig, ["--config", "configs/dapo_math_7b.yaml"], "grpo")
    at_root = replace(named.data, dataset_name=str(ROOT / named.data.dataset_name), image_root=".",
                      prompt_template=str(ROOT / named.data.prompt_template))  # fmt: skip
    assert typed == replace(named, data=at_root)
    prompts = typed.training.per_device_train_batch_size * typed.training.gradient_accumulation_steps * 8
    assert (prompts, typed.rollout.num_generations, typed.training.mini_batch_size * 8) == (64, 16, 8)
    assert (typed.objective.dual_clip, typed.reward.overlong_buffer) == (10, 1024)
    assert typed.settled_reward.length_limit == 8192


def test_dapo_takes_the_variables_and_flags_people_know(eight_gpus):
    _, (call,) = eight_gpus.run("run_dapo_math.sh", "--max_steps", "3", GPUS="2", BATCH_SIZE="16", DATASET="data")
    found = flags(call)
    assert (found["gradient_accumulation_steps"], found["mini_batch_size"], found["max_steps"]) == ("8", "4", "3")
    assert found["dataset_name"] == "data"


def test_mathematics_is_fetched_and_converted_source_by_source(cpu):
    (cpu.folder / "data").unlink()
    (cpu.folder / "data" / "math").mkdir(parents=True)
    (cpu.folder / "data" / "math" / "wemath.parquet").touch()
    done, calls = cpu.run("prepare_math.sh", "--prompt_tail", "")
    assert done.returncode == 0 and calls[0] == ["-m", "r1_mllm", "data", "prepare", "math", "--out", "data"]
    written = [call[call.index("--out") + 1] for call in calls[1:]]
    names = "geometry3k mathvision polymath scemqa_choice scemqa_free".split()
    assert written == [f"data/math/{name}.parquet" for name in names] and "wemath.parquet is already" in done.stdout
    text = (ROOT / "configs" / "dapo_math.yaml").read_text()
    assert all(f"data/math/{name}.parquet" in text for name in [*names, "wemath"])
