# SPDX-License-Identifier: Apache-2.0
"""What the commands of a user leave loads elsewhere and says the same: adapters in peft, exports in transformers."""

import json
import subprocess
from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm import cli
from r1_mllm.config import EvalConfig
from r1_mllm.data.pack import pack, supervised_pair
from r1_mllm.data.synthetic import write_splits
from r1_mllm.evaluation.load import load

ROOT = Path(__file__).parents[2]
ORACLE = ROOT / ".venv-oracle" / "bin" / "python"
CHECKPOINT = ROOT / "tests/golden/cases/e2e/checkpoint"
REWARD = """
def capitals(group):
    return [sum(c.isupper() for c in done.text) / max(len(done.text), 1) for done in group.completions]
"""


def train(folder, *flags):
    """Two steps of GRPO from the command line; gives the folder of its last checkpoint."""
    data, _ = write_splits("counting", 12, folder / "scenes", num_test=2, seed=3)
    (folder / "reward.py").write_text(REWARD)
    words = ["--model_name_or_path", str(CHECKPOINT), "--task", "counting", "--dataset_name", str(data)]
    words += ["--output_dir", str(folder / "run"), "--reward_funcs", f"{folder / 'reward.py'}:capitals"]
    words += ["--num_generations", "4", "--max_completion_length", "6", "--max_steps", "2", "--report_to", "none"]
    cli.main(["grpo", *words, "--learning_rate", "0.05", *flags])
    return folder / "run" / "checkpoint-2"


def ours(folder, prompt=None):
    """[T, V] logits of a folder's model for one question about a picture, and the prompt."""
    loaded = load(folder, EvalConfig(model_path=str(folder)))
    if prompt is None:
        content = [{"type": "image"}, {"type": "text", "text": "How many circles are there?"}]
        picture = CHECKPOINT.parent / "images" / "a.png"
        prompt = loaded.processor.encode([{"role": "user", "content": content}], [str(picture)])
    (batch,) = pack([supervised_pair(prompt, np.array([7]))], 4096, [loaded.processor.tokenizer.image_pad_id])
    with paddle.no_grad():
        model = loaded.engine.model
        return model.logits(model.hidden(batch)).numpy()[: len(prompt.ids)], prompt


@pytest.mark.oracle
@pytest.mark.skipif(not ORACLE.exists(), reason="needs .venv-oracle with torch, transformers and peft")
def test_a_runs_adapter_its_merged_export_and_a_full_export_say_elsewhere_what_they_say_here(tmp_path):
    for name in ("lora", "whole"):
        (tmp_path / name).mkdir()
    adapter = train(tmp_path / "lora", "--use_peft", "True", "--lora_r", "3")
    full = train(tmp_path / "whole")
    cli.main(["export", "--adapter", str(adapter), "--out", str(tmp_path / "merged"), "--max_shard_gb", "0.0003"])
    cli.main(["export", "--checkpoint", str(full), "--out", str(tmp_path / "full"), "--torch_dtype", "float32"])
    before, prompt = ours(CHECKPOINT)
    here = {name: ours(folder, prompt)[0] for name, folder in (("adapter", adapter), ("full", tmp_path / "full"))}
    np.savez(tmp_path / "prompt.npz", ids=prompt.ids.astype(np.int64), pixels=prompt.pixels, grid=prompt.grids)
    folders = [CHECKPOINT, adapter, tmp_path / "merged", tmp_path / "full", tmp_path / "prompt.npz"]
    command = [str(ORACLE), str(Path(__file__).with_name("export_logits.py")), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    theirs = np.load(report["logits"])
    assert report["complaints"] == {}
    for name, logits in here.items():
        assert np.abs(logits - before).max() > 0.01  # training changed something
        np.testing.assert_allclose(theirs[name], logits, atol=1e-4, rtol=0, err_msg=name)
    np.testing.assert_allclose(theirs["merged"], here["adapter"], atol=1e-4, rtol=0)
