# SPDX-License-Identifier: Apache-2.0
"""The embedded default of scripts/run_dapo_math.sh."""

import json
import math

import pytest

from r1_mllm.config import GrpoConfig, OptimizerConfig, TrainingConfig
from r1_mllm.quickstart.dapo import dapo
from r1_mllm.quickstart.run import QuickstartConfig, run
from r1_mllm.quickstart.warm_start import Annotator
from r1_mllm.tasks import get_task


def test_the_annotator_answers_in_boxes():
    annotator = Annotator("math_boxed", 3, figures=("area", "perimeter"))
    answers = [annotator.pair(4, careful=True) for _ in range(5)]
    for _, messages, text in answers:
        assert "<answer>" not in text and text.endswith("}") and "\\boxed{" in text
        assert messages[-1]["content"][0] == {"type": "image"}
    assert get_task("math_boxed").name == "math_boxed"


def test_the_settings_are_those_of_dapo():
    made = dapo(GrpoConfig(training=TrainingConfig(per_device_train_batch_size=12), optimizer=OptimizerConfig()))
    assert made.rollout.dynamic_sampling and made.objective.beta == 0 and made.objective.epsilon_high == 0.28
    assert made.reward.reward_funcs == ("math_verify_for_dapo", "overlong") and made.training.mini_batch_size == 6


@pytest.mark.slow
def test_the_embedded_default_runs_in_miniature(tmp_path):
    report = run(QuickstartConfig("math_boxed", str(tmp_path / "run"), smoke=True))
    assert report.is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "dynamic_sampling/num_rounds" in line]
    assert logged and all(math.isfinite(line["rewards/overlong"]) for line in logged)
    assert all("clip_ratio/dual_mean" in line and line["loss"] == line["loss"] for line in logged)
