# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm.distributed import collectives, mesh

WORKER = Path(__file__).with_name("two_ranks.py")


def test_a_single_process_gets_back_what_it_gives(monkeypatch):
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)
    assert mesh.init() == mesh.Mesh(rank=0, world=1)
    weight = paddle.create_parameter([2], "float32")
    (weight * paddle.to_tensor([3.0, 5.0])).sum().backward()
    collectives.sum_gradients([weight])
    assert weight.grad.tolist() == [3.0, 5.0]
    assert collectives.sum_scalars({"reward": 0.25}) == {"reward": 0.25}
    assert collectives.gather_objects("a") == ["a"] and collectives.broadcast_object((1, None)) == (1, None)
    collectives.barrier()


@pytest.mark.slow
def test_two_processes_agree_on_sums_and_share_one_checkpoint(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command = [*launcher, "--log_dir", tmp_path / "log", WORKER, tmp_path]
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (first["rank"], second["rank"]) == (0, 1)
    # rank r contributes (r + 1) * [3, 5] to `both`, and 7 to `only_second` on rank 1 alone
    assert first["both"] == second["both"] == [9.0, 15.0]
    assert first["only_second"] == second["only_second"] == [[7.0, 7.0, 7.0]]
    assert first["frozen"] is None
    assert first["scalars"] == second["scalars"] == {"correct": 2.5, "num": 11.0}
    assert first["gathered"] == second["gathered"] == [["rank", 0], ["rank", 1]]
    assert first["told"] == second["told"] == {"from": 1}
    assert first["saved"] == second["saved"] == "checkpoint-4" and first["resumed"] == second["resumed"] == 4
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoint-4" / "state").iterdir()) == [
        "optimizer.safetensors",
        "rng-rank000.json",
        "rng-rank001.json",
        "trainer.json",
    ]
    assert "cannot be written" in first["refused"] and first["refused"] == second["refused"]


def test_gradients_larger_than_a_bucket_keep_their_order(monkeypatch):
    monkeypatch.setattr(collectives, "_BUCKET_ELEMENTS", 4)
    monkeypatch.setattr(collectives, "world", lambda: 2)
    monkeypatch.setattr(collectives.dist, "all_reduce", lambda flat: flat.set_value(flat * 2))
    parameters = [paddle.create_parameter(shape, "float32") for shape in ([3], [2, 2], [1])]
    scales = [np.arange(1, 4), np.array([[5, 6], [7, 8]]), np.array([9])]
    loss = sum((p * paddle.to_tensor(s.astype("float32"))).sum() for p, s in zip(parameters, scales, strict=True))
    loss.backward()
    collectives.sum_gradients(parameters)
    for parameter, scale in zip(parameters, scales, strict=True):
        assert (parameter.grad.numpy() == 2 * scale).all()
