# SPDX-License-Identifier: Apache-2.0
"""A full checkpoint becomes a folder that loads by itself: cast, cut into files, with tokenizer and card."""

import json
from pathlib import Path

import numpy as np
import pytest

from r1_mllm import cli
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor

CHECKPOINT = Path(__file__).parents[1] / "golden" / "cases" / "e2e" / "checkpoint"


def test_a_checkpoint_is_cast_cut_and_told_about(tmp_path, capsys):
    out = tmp_path / "for-others"
    words = ["export", "--checkpoint", str(CHECKPOINT), "--out", str(out), "--torch_dtype", "bfloat16"]
    cli.main([*words, "--max_shard_gb", "0.0003"])
    assert capsys.readouterr().out.strip() == str(out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert "weights in bfloat16" in (out / "README.md").read_text()
    Processor.from_pretrained(out)
    before, after = load_pretrained(CHECKPOINT), load_pretrained(out)
    for (name, own), (_, written) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        np.testing.assert_allclose(written.numpy(), own.numpy(), rtol=2**-8, atol=1e-30, err_msg=name)


def test_the_folder_and_the_source_are_checked(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for words, code in (
        (["--checkpoint", str(CHECKPOINT), "--out", str(tmp_path)], 73),
        (["--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "x")], 66),
        (["--checkpoint", "a", "--adapter", "b", "--out", str(tmp_path / "x")], 64),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", *words])
        assert ended.value.code == code
