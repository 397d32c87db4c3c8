# SPDX-License-Identifier: Apache-2.0
"""What a benchmark can be told, and the folder it reads: model, pictures and prompts as tests/bench saves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..records import Example
from ..runtime import DATA, Stop


@dataclass(frozen=True)
class FolderBench:
    """A benchmark on a model, pictures and prompts that the peer saved."""

    model: str
    """Folder that tests/bench/bench_peer_step.py --save wrote: a model, prompts.json and images/."""
    prompts: int = 1
    """Prompts per step."""
    gens: int = 8
    """Completions per prompt."""
    new: int = 128
    """Tokens per completion; where they are sampled, stopping is suppressed."""
    size: str | None = None
    """What the folder must hold, like side and prompt_tokens; None: anything."""
    side: int | None = None
    """Width and height of the folder's pictures, px."""
    prompt_tokens: int | None = None
    """Length of the folder's prompts, visual tokens included."""
    steps: int = 6
    """Measured repetitions."""
    warmup: int = 2
    """Repetitions before them that do not count."""
    threads: int = 0
    """CPU threads; 0: OMP_NUM_THREADS, else all cores."""
    seed: int = 0
    """Sampling, or the random completions, follow from it."""
    json: str | None = None
    """File that also receives the printed line."""


@dataclass(frozen=True)
class RolloutBench(FolderBench):
    """Time sampling alone and compare a decode step with what the machine could do at best."""

    temperature: float = 1.0
    """What logits are divided by before sampling; 0 means greedy."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that make up this share of the probability; 1.0 switches it off."""
    top_k: int = 0
    """Sample among so many likeliest tokens; 0 switches it off."""


@dataclass(frozen=True)
class StepBench(RolloutBench):
    """Time whole GRPO steps: prompts, rollout, reference, policy forward and backward, clipping, AdamW."""

    lengths: str = ""
    """LO:HI: completion i of rollout c ends after numpy.random.default_rng(seed + c).integers(LO, HI + 1, rows)[i]
    tokens, the stop token included; `new` is then HI."""
    beta: float = 0.04
    """Weight of the KL term; 0 leaves out the reference model."""
    learning_rate: float = 1e-6
    """AdamW's."""
    tokens_per_pack: int = 8192
    """Budget of one packed forward pass."""
    recompute: bool = False
    """Recompute activations in the backward pass; the peer's --grad-ckpt 1."""


@dataclass(frozen=True)
class ForwardBench(FolderBench):
    """Time scoring a step's completions of random tokens, without and with gradients, and compare with its products
    alone."""

    tokens_per_pack: int = 8192
    """Budget of one packed forward pass."""
    recompute: bool = False
    """Recompute activations in the backward pass."""


@dataclass(frozen=True)
class LoadBench:
    """Time loading a checkpoint beside reading its files once, and watch the memory it takes."""

    model: str
    """Folder with config.json and *.safetensors."""
    make: str | None = None
    """Folder with a config.json: first write a random bfloat16 checkpoint of that architecture to `model`."""
    dtype: str = "bfloat16"
    """What the weights are kept in: bfloat16, float16, float32 or auto."""
    threads: int = 0
    """CPU threads; 0: OMP_NUM_THREADS, else all cores."""
    json: str | None = None
    """File that also receives the printed line."""


@dataclass(frozen=True)
class MemoryBench:
    """Take a few supervised steps on a network of random weights and read each process's peak memory.  Under
    `paddle.distributed.launch` the state is shared out as --sharding says; rank 0 prints one line for all."""

    sharding: Literal["none", "stage1", "stage2"] = "none"
    """As in training: what processes share out."""
    sharding_parallel_degree: int = -1
    """Processes that share one copy; -1: all."""
    hidden_size: int = 512
    """Width of the decoder, a multiple of 128."""
    layers: int = 16
    """Of the decoder."""
    vocab_size: int = 8000
    """With the defaults 55 million numbers are trained, 7 % of them the (tied) embedding; in the published 3B 8 %."""
    tokens: int = 64
    """Of the answer each process learns: few, so that activations are small beside the state."""
    steps: int = 3
    """Supervised steps taken."""
    seed: int = 0
    """Of the random weights."""
    json: str | None = None
    """File that also receives the printed line."""


@dataclass(frozen=True)
class RewardsBench:
    """Time grading: boxes, numbers, mathematical answers, and those of them that only math-verify can compare."""

    num: int = 2000
    """Answers of each kind; a twentieth as many of the last."""
    seed: int = 0
    """Of the made-up answers."""
    json: str | None = None
    """File that also receives the printed line."""


@dataclass(frozen=True)
class DataBench:
    """Time turning pictures into patches, on this thread and on those that work ahead of training."""

    num: int = 400
    """Pictures."""
    width: int = 640
    """Of a picture, px."""
    height: int = 480
    """Of a picture, px."""
    workers: int = 2
    """Threads that work ahead."""
    seed: int = 0
    """Of the made-up pictures."""
    json: str | None = None
    """File that also receives the printed line."""


def length_range(config: StepBench) -> tuple[int, int] | None:
    """Read `lengths`: the shortest and longest completion; None when it is not given."""
    if not config.lengths:
        return None
    low, _, high = config.lengths.partition(":")
    if not (low.isdigit() and high.isdigit() and 1 <= int(low) <= int(high)):
        raise Stop(f"--lengths {config.lengths}: expected LO:HI with 1 <= LO <= HI, for example 16:256")
    return int(low), int(high)


def read_folder(config: FolderBench) -> tuple[list[Example], dict[str, Any]]:
    """Read the prompts and pictures of a folder, and what assets.json says it holds.

    A folder made for another size, side or prompt length than asked for ends the program.
    """
    folder = Path(config.model)
    if not (folder / "prompts.json").is_file():
        how = "tests/bench/bench_peer_step.py --save DIR writes such a folder"
        raise Stop(f"{folder}: no prompts.json; {how}", DATA)
    stamp = json.loads((folder / "assets.json").read_text()) if (folder / "assets.json").is_file() else {}
    for name in ("size", "side", "prompt_tokens"):
        asked = getattr(config, name)
        if asked is not None and stamp.get(name) != asked:
            raise Stop(f"{folder} holds {name} {stamp.get(name)}, not {asked}; let the peer save another folder", DATA)
    questions = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    if config.prompts > len(questions):
        raise Stop(f"--prompts {config.prompts}: {folder} has {len(questions)}", DATA)
    return [
        Example("counting", question, 0, (str(folder / "images" / f"{i:03d}.png"),))
        for i, question in enumerate(questions)
    ], stamp


def messages(example: Example) -> list[dict[str, Any]]:
    """Lay an example out as the peer does: the picture, then the question, without a template."""
    content = [{"type": "image"}, {"type": "text", "text": example.question}]
    return [{"role": "user", "content": content}]
