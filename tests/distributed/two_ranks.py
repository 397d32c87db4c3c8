# SPDX-License-Identifier: Apache-2.0
"""Run by test_collectives.py in two processes: exchange, save, resume, and write down what this rank saw."""

import json
import sys
from pathlib import Path

from r1_mllm import runtime

runtime.prepare(2)

import numpy as np
import paddle
from safetensors.numpy import save_file

from r1_mllm.config import GrpoConfig, TrainingConfig
from r1_mllm.distributed import collectives, mesh
from r1_mllm.training.checkpoint import open_run


def gradients(rank):
    both, only_second = paddle.create_parameter([2], "float32"), paddle.create_parameter([1, 3], "float32")
    frozen = paddle.create_parameter([2], "float32")
    frozen.stop_gradient = True
    loss = (both * paddle.to_tensor([3.0, 5.0])).sum() * (rank + 1)
    if rank == 1:
        loss = loss + 7 * only_second.sum()
    loss.backward()
    collectives.sum_gradients([both, frozen, only_second])
    return {"both": both.grad.tolist(), "only_second": only_second.grad.tolist(), "frozen": frozen.grad}


def checkpoint(folder, rank):
    config = GrpoConfig(training=TrainingConfig(output_dir=str(folder / "run")))
    run = open_run(config, rank=rank)
    value = np.ones(3, np.float32)
    path = run.save(4, lambda into: save_file({"w": value}, into / "model.safetensors"), {"m": value}, {})
    run.close()
    collectives.barrier()
    run = open_run(config, rank=rank)
    run.resume_point.restore_rng(rank)
    run.close()
    (folder / "taken").touch()
    try:
        open_run(GrpoConfig(training=TrainingConfig(output_dir=str(folder / "taken"))), rank=rank)
    except runtime.Stop as stop:
        refused = str(stop)
    return {"saved": path.name, "resumed": run.resume_point.step, "refused": refused}


def main():
    folder = Path(sys.argv[1])
    joined = mesh.init()
    seen = {"rank": joined.rank, **gradients(joined.rank)}
    seen["scalars"] = collectives.sum_scalars({"num": 5.0 + joined.rank, "correct": 1.0 + joined.rank / 2})
    seen["gathered"] = collectives.gather_objects(("rank", joined.rank))
    seen["told"] = collectives.broadcast_object({"from": joined.rank}, source=1)
    seen |= checkpoint(folder, joined.rank)
    (folder / f"rank{joined.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
