# SPDX-License-Identifier: Apache-2.0
"""Run by test_two_ranks.py, alone and in two processes: gradients of the same groups, dealt out to the ranks."""

import json
import sys
from pathlib import Path

import numpy as np

from r1_mllm.config import GrpoConfig, ModelConfig, ObjectiveConfig, RolloutConfig, TrainingConfig
from r1_mllm.distributed import mesh
from r1_mllm.processing.prompt import Processor
from r1_mllm.records import Completion, Example, Group
from r1_mllm.training.optimizer import AdamW
from r1_mllm.training.policy_model import load_model
from r1_mllm.training.scaling import LossScale
from r1_mllm.training.step import accumulate_gradients, assign_advantages, pack_groups

ANSWERS = (
    ("one", "a cat", "nothing at all"),
    ("7", "eight or so", "9"),
    ("no", "yes", "it is a picture"),
    ("", "x", "y"),
)


def make_groups(folder):
    processor = Processor.from_pretrained(folder)
    picture = str(folder.parent / "images" / "a.png")
    groups = []
    for i_group, answers in enumerate(ANSWERS):
        images = [picture] * (i_group != 1)
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": f"Question {i_group}?"}]
        prompt = processor.encode([{"role": "user", "content": content}], images)
        completions = []
        for text in answers:
            ids = np.append(processor.tokenizer.encode(text), processor.tokenizer.stop_ids[0])
            completions.append(Completion(ids, np.full(len(ids), -7.2, np.float32), text, True))
        earned = np.array([0.3, 0.1 * i_group, 1.7])
        groups.append(Group(Example("", "", None), prompt, completions, {"all": earned}, rewards=earned))
    return groups


def main():
    folder, out, loss_type = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    joined = mesh.init()
    config = GrpoConfig(
        model=ModelConfig(str(folder)),
        rollout=RolloutConfig(num_generations=3),
        objective=ObjectiveConfig(loss_type=loss_type, beta=0.0, scale_rewards="batch"),
        training=TrainingConfig(per_device_train_batch_size=4 // joined.world),
    )
    model = load_model(folder, config)
    optimizer = AdamW(model.named_parameters(), config.optimizer)
    groups = make_groups(folder)[joined.rank :: joined.world]
    assign_advantages(groups, np.ones(1), config)
    packs = pack_groups(groups, {model.arch.image_token_id}, config)
    update = accumulate_gradients(model, packs, optimizer, LossScale(False), config)
    if joined.rank == 0:
        weight = model.text.norm.weight.grad.numpy().tolist()
        out.write_text(json.dumps({"loss": update.loss, "grad_norm": update.grad_norm, "weight": weight}))


main()
