# SPDX-License-Identifier: Apache-2.0
"""A failed allocation ends a run with what takes the memory and what to turn; a phase that dominates is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from r1_mllm.config import GrpoConfig, ModelConfig, SftConfig
from r1_mllm.distributed import heartbeat
from r1_mllm.runtime import MEMORY, Stop
from r1_mllm.training import memory
from r1_mllm.training.phases import PhaseWatch, SpreadWatch

CHECKPOINT = Path(__file__).parents[1] / "golden/cases/e2e/checkpoint"
MODEL = ModelConfig(model_name_or_path=str(CHECKPOINT))


@pytest.mark.parametrize(
    ("phase", "first", "config"),
    [
        ("generate", "--rollout_cache_mb None", GrpoConfig(model=MODEL)),
        ("update", "--tokens_per_pack 8192", GrpoConfig(model=MODEL)),
        ("update", "--tokens_per_pack 8192", SftConfig(model=MODEL)),
    ],
)
def test_the_settings_that_help_come_first_with_their_values(monkeypatch, phase, first, config):
    monkeypatch.setattr(heartbeat, "latest", heartbeat.Beat(phase, 12))
    with pytest.raises(Stop) as stop, memory.explained(config):
        raise MemoryError("(ResourceExhausted) Fail to alloc memory of 17179869184 size\n[Hint: ...]")
    text = str(stop.value)
    assert stop.value.code == MEMORY
    lines = text.splitlines()
    assert (
        lines[0]
        == f"out of memory at step 12, phase {phase}: (ResourceExhausted) Fail to alloc memory of 17179869184 size"
    )
    knobs = [line.strip() for line in lines if line.startswith("  --")]
    assert knobs[0].startswith(first) and any(knob.startswith("--sharding none") for knob in knobs)
    assert "activations" in text and "peak" in text


def test_other_errors_pass():
    with pytest.raises(ValueError, match="x"), memory.explained(GrpoConfig(model=MODEL)):
        raise ValueError("x")


@pytest.mark.slow
def test_a_real_allocation_that_fails_is_explained():
    code = f"""
import resource, paddle
from r1_mllm.config import GrpoConfig, ModelConfig
from r1_mllm.training import memory
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
try:
    with memory.explained(GrpoConfig(model=ModelConfig(model_name_or_path={str(CHECKPOINT)!r}))):
        paddle.zeros([1 << 34])
except memory.Stop as stop:
    print(stop)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("out of memory at step 0"), done.stderr
    assert "68719476736" in done.stdout and "--tokens_per_pack 8192" in done.stdout


def test_a_phase_that_dominates_ten_rollouts_is_named_once():
    watch = PhaseWatch()
    usual = {"time/generate": 0.5, "time/update": 0.3, "time/reward": 0.01}
    assert [watch.observe(usual) for _ in range(15)] == [None] * 15
    slow = {"time/generate": 0.5, "time/update": 0.3, "time/reward": 4.0}
    told = [text for _ in range(12) if (text := watch.observe(slow))]
    assert len(told) == 1 and told[0].startswith("reward takes 3") and "verify_timeout" in told[0]
    # two of ten rollouts are slow, of which one counts: (8 * 0.01 + 4.0) / (8 * 0.81 + 4.81) = 36.1 %
    assert told[0].startswith("reward takes 36 % of the latest 10 steps' time")


def test_one_step_that_stood_still_is_no_phase_that_dominates():
    watch = PhaseWatch()
    usual = {"time/generate": 0.5, "time/update": 0.3}
    stopped = {"time/generate": 0.5, "time/update": 90.0}
    assert [watch.observe(seconds) for seconds in [*[usual] * 12, stopped, *[usual] * 12]] == [None] * 25


def test_rewards_without_any_spread_are_named_once_after_ten_rollouts_in_a_row():
    watch = SpreadWatch()
    shares = [1.0] * 9 + [0.75] + [1.0] * 25
    told = {i: text for i, share in enumerate(shares) if (text := watch.observe(0.25, share, 0.1))}
    assert list(told) == [19]  # the nine before the spread do not count
    assert "mean reward 0.25" in told[19] and "cut" not in told[19]
    watch = SpreadWatch()
    assert [watch.observe(0.0, 1.0, 0.625) for _ in range(10)][-1].endswith(
        "62 % of the answers are cut: raise max_completion_length"
    )
