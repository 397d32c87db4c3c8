# SPDX-License-Identifier: Apache-2.0
"""Run by test_sharded.py in several processes: what it names, one after another; rank 0 writes down what it saw."""

import json
import sys
from pathlib import Path

from r1_mllm import runtime

runtime.prepare(1)

import numpy as np
import paddle

from r1_mllm.config import GrpoConfig, OptimizerConfig, SftConfig
from r1_mllm.config.flags import parse
from r1_mllm.distributed import collectives, mesh, shards
from r1_mllm.training import grpo, reference, sft
from r1_mllm.training.optimizer import AdamW
from r1_mllm.training.sharded import ShardedAdamW

SHAPES = {"a.weight": (3, 4), "n.weight": (4,), "b.bias": (5,), "c.weight": (7, 3), "never": (2, 2)}


def make_weights(dtype):
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in SHAPES.items():
        weights[name] = paddle.to_tensor(rng.normal(size=shape).astype(np.float32)).astype(dtype)
        weights[name].stop_gradient = False
    return weights


def backward(weights, seed):
    """Leave gradients on two thirds of the parameters; `never` gets none from anybody."""
    rng, loss = np.random.default_rng(seed), 0
    for i, (name, weight) in enumerate(weights.items()):
        gradient = paddle.to_tensor(rng.normal(size=weight.shape).astype(np.float32))
        if name != "never" and (i + seed) % 3:
            loss = loss + (weight.astype("float32") * gradient).sum()
    loss.backward()


def step(optimizer, weights, rank, number):
    """Take one step on 0 to 3 passes, as many as this rank has; give the norm."""
    optimizer.begin()
    for i_pass in range([3, 1, 0, 2][(rank + number) % 4]):
        backward(weights, 100 * number + 10 * rank + i_pass)
        optimizer.accumulate()
    optimizer.reduce_gradients()
    norm = optimizer.grad_norm()
    optimizer.step(0.01, norm)
    return norm


def compare(place, dtype, degree, stage2):
    """Largest differences from plain AdamW after some steps: weights, norm, state; and what the step left behind."""
    config = OptimizerConfig(weight_decay=0.3, max_grad_norm=0.5)
    plain, mine = make_weights(dtype), make_weights(dtype)
    first = AdamW(plain.items(), config)
    second = ShardedAdamW(mine.items(), config, shards.WorldShards(place.rank, place.world, degree), stage2)
    norms = [(step(first, plain, place.rank, n), step(second, mine, place.rank, n)) for n in range(4)]
    one, two = first.state_dict(), second.state_dict()
    assert list(one) == list(two)
    wide = [[weights[name].astype("float32").numpy() for name in SHAPES] for weights in (plain, mine)]
    held = sum(moment.size for pair in second.moments.values() for moment in pair)
    return {
        "weights": max(float(np.abs(a - b).max()) for a, b in zip(*wide, strict=True)),
        "norm": max(abs(a / b - 1) for a, b in norms),
        "state": max(float(np.abs(one[name] - two[name]).max()) for name in one),
        "held": held,
        "never": float(np.abs(two["never/moment1"]).max()),
        "left": sum(weight.grad is not None for weight in mine.values()) + len(second.sums) + len(second.whole),
    }


def train(task):
    """Run training with each of the settings; say whether ranks had the same weights after every step."""
    same = []
    for optimizer in (AdamW, ShardedAdamW):
        optimizer.step = watched(optimizer.step, same)
    reference.mix = compared(reference.mix, moved := [])
    for words in task.get("train", []):
        sft.train(parse(SftConfig, words, "sft"))
    for words in task.get("grpo", []):
        grpo.train(parse(GrpoConfig, words, "grpo"))
    return {"steps": len(same), "same": all(same), "references": moved}


def watched(plain, same):
    def step(self, rate, norm):
        plain(self, rate, norm)
        same.append(all_equal(self.weights.values()))

    return step


def compared(plain, moved):
    """Note of each mixture whether all ranks' references are the same, and say what it was made of."""

    def mix(own, policy, alpha):
        plain(own, policy, alpha)
        moved.append([alpha, all_equal(own.parameters())])

    return mix


def all_equal(weights):
    digest = [float(weight.astype("float64").abs().sum()) for weight in weights]
    return len({json.dumps(seen) for seen in collectives.gather_objects(digest)}) == 1


def main():
    place, task = mesh.init(), json.loads(Path(sys.argv[1]).read_text())
    seen = {}
    if task.get("compare"):
        shards.buckets.__defaults__ = (5,)
        cases = [(dtype, d, s) for dtype in ("float32", "bfloat16") for d in (1, 2, 4) for s in (False, True)]
        seen["compare"] = {str(case): compare(place, *case) for case in cases if place.world % case[1] == 0}
        shards.buckets.__defaults__ = (20000,)
    seen["train"] = train(task)
    if place.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(seen))


main()
