# SPDX-License-Identifier: Apache-2.0
"""A run's folder as a finished GRPO run leaves it, with asymmetric numbers."""

import json

import numpy as np
import pytest
from PIL import Image

TRUTH = [30.0, 20.0, 90.0, 80.0]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def result_row(index, image, correct, box):
    return {
        "id": f"scene-{index}",
        "image": image,
        "prompt": "<user>where is the red square?",
        "question": f"where is the <red> square {index}?",
        "ground_truth": TRUTH,
        "model_output": "...",
        "extracted_answer": box,
        "correct": correct,
        "score": 0.8 if correct else 0.1,
        "decided_by": "iou" if box else "no_answer",
        "image_size": [160, 120],
        "input_size": [112, 84],
    }


def write_run(folder, num_steps=200, num_eval=40):
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    image = str(folder / "scene.png")
    Image.fromarray(rng.integers(90, 220, (120, 160, 3), dtype=np.uint8)).save(image)
    metrics = []
    for step in range(1, num_steps + 1):
        progress = step / num_steps
        metrics.append(
            {
                "step": step,
                "loss": float(0.02 * rng.normal()),
                "reward": float(0.4 + 0.6 * progress + 0.1 * rng.normal()),
                "reward_std": float(0.3 - 0.1 * progress),
                "rewards/accuracy/mean": float(0.2 + 0.5 * progress + 0.08 * rng.normal()),
                "rewards/format/mean": float(min(1.0, 0.6 + progress + 0.02 * rng.normal())),
                "completions/mean_length": float(60 - 20 * progress + 3 * rng.normal()),
                "completions/max_length": float(90 - 10 * progress + 5 * rng.normal()),
                "kl": float(0.05 * progress + 0.004 * abs(rng.normal())),
                "grad_norm": float(1.2 + 0.4 * rng.normal()),
                "learning_rate": 2e-4 * (1 - progress),
                "num_tokens": 4096 * step,
                "step_time": 1.5,
                "perf/mfu": 0.31,
            }
        )
    write_jsonl(folder / "metrics.jsonl", metrics)
    completions = [
        {
            "step": step,
            "id": "scene-1",
            "prompt": "<|im_start|>user\nwhere is the red square?",
            "image": image,
            "completion": f"<think>sample {number}</think><answer>[30, 20, 88, 79]</answer>",
            "rewards": {"accuracy": 0.25 * number, "format": 1.0},
            "advantage": number - 1.5,
            "extracted": [30, 20, 88, 79],
            "ground_truth": TRUTH,
        }
        for step in (1, 50, 120, 200)
        for number in range(4)
    ]
    write_jsonl(folder / "completions.jsonl", completions)
    near, far = [33.0, 22.0, 92.0, 78.0], [5.0, 60.0, 50.0, 110.0]
    before = [result_row(i, image, int(i % 3 == 0), near if i % 3 == 0 else far) for i in range(num_eval)]
    after = [result_row(i, image, int(i % 5 != 1), near if i % 5 != 1 else None) for i in range(num_eval)]
    for name, rows in (("before", before), ("after", after)):
        accuracy = 100 * sum(row["correct"] for row in rows) / num_eval
        (folder / f"eval_{name}.json").write_text(json.dumps({"accuracy": accuracy, "results": rows}))
    (folder / "args.yaml").write_text("learning_rate: 0.0002\nmodel: <tiny>\n")
    return folder


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "quickstart")
