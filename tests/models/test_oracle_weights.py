# SPDX-License-Identifier: Apache-2.0
"""Folders we write load in transformers unchanged, and folders it writes load here."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from r1_mllm.models.config import ModelArch
from r1_mllm.models.weights import load_pretrained, read_tensors, save_pretrained

ROOT = Path(__file__).parents[2]
ORACLE = ROOT / ".venv-oracle" / "bin" / "python"
MODELS = ROOT / "tests" / "golden" / "cases" / "models"


@pytest.mark.oracle
@pytest.mark.skipif(not ORACLE.exists(), reason="needs .venv-oracle with torch and transformers")
@pytest.mark.parametrize("name", ["q25_untied_flat", "q25_tied_nested_bf16", "q2_tied_sharded", "q2_untied_tf5"])
def test_what_we_write_loads_in_transformers_with_the_same_logits_and_back(tmp_path, name):
    save_pretrained(
        load_pretrained(MODELS / name), tmp_path / "ours", max_shard_bytes=200_000, source_dir=MODELS / name
    )
    folders = [str(MODELS / name), str(tmp_path / "ours"), str(tmp_path / "theirs")]
    command = [str(ORACLE), str(Path(__file__).with_name("transformers_logits.py")), *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == {"difference": 0.0, "complaints": {}}
    ours = read(tmp_path / "ours")
    for written in (tmp_path / "theirs", tmp_path / "theirs" / "live"):
        back = read(written)
        assert back.keys() == ours.keys()
        assert all(np.array_equal(back[key], ours[key]) for key in ours), written


def read(folder):
    return dict(read_tensors(folder, ModelArch.from_pretrained(folder), "float32"))
