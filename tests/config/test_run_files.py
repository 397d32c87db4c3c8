# SPDX-License-Identifier: Apache-2.0
"""The run configurations in configs/ say what the scripts pass on 8 GPUs, and nothing that is a default anyway."""

import subprocess
from pathlib import Path

import pytest
import yaml

from r1_mllm.config import GrpoConfig, flatten
from r1_mllm.config.flags import parse

ROOT = Path(__file__).resolve().parents[2]
RUNS = {"grpo_rec_3b": "rec", "grpo_counting_2b": "counting", "grpo_geometry_2b": "geometry", "grpo_sat_2b": "sat"}
NUM_GPUS = {"sat": 4}
STUB = '#!/bin/sh\nif [ "$1" = -c ]; then exit 0; fi\nfor word in "$@"; do printf "%s\\n" "$word"; done > "$CALL"\n'


def passed_by_the_script(task, folder):
    """What run_grpo_TASK.sh hands to the trainer on a machine with 8 GPUs (or NUM_GPUS), the data set being there."""
    commands = folder / "bin"
    commands.mkdir()
    for name, text in {
        "python": STUB,
        "nvidia-smi": "#!/bin/sh\n" + "echo 'GPU 0: some card'\n" * NUM_GPUS.get(task, 8),
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    for name in ("data/Counting/clevr_cogen_a_train", "data/GEO/GEOQA_R1V_Train_8K"):
        (folder / name).mkdir(parents=True)
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "HOME": str(folder), "CALL": str(folder / "call")}
    script = ROOT / "scripts" / f"run_grpo_{task}.sh"
    subprocess.run(["sh", str(script)], cwd=folder, env=environment, check=True, capture_output=True, timeout=60)
    words = (folder / "call").read_text().splitlines()
    return words[words.index("grpo") + 1 :]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_file_equals_its_script(name, tmp_path):
    typed = parse(GrpoConfig, passed_by_the_script(RUNS[name], tmp_path), "grpo")
    filed = flatten(parse(GrpoConfig, ["--config", str(ROOT / "configs" / f"{name}.yaml")], "grpo"))
    expected = flatten(typed)
    expected["dataset_name"] = expected["dataset_name"].removeprefix(f"{ROOT}/")  # the script may stand anywhere
    assert filed == expected


@pytest.mark.parametrize("name", RUNS)
def test_a_run_file_holds_only_what_differs_from_the_defaults(name):
    path = ROOT / "configs" / f"{name}.yaml"
    filed, defaults = flatten(parse(GrpoConfig, ["--config", str(path)], "grpo")), flatten(GrpoConfig())
    written = set(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert written == {key for key in filed if filed[key] != defaults[key]}
