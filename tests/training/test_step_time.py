# SPDX-License-Identifier: Apache-2.0
"""The scaling model counts the work that the network does; its times follow from rates by hand."""

import dataclasses

import numpy as np
import pytest

from r1_mllm import cli
from r1_mllm.bench import rollout
from r1_mllm.config import GrpoConfig, LoraConfig, ObjectiveConfig, RolloutConfig, TrainingConfig
from r1_mllm.models import operations
from r1_mllm.models.config import ModelArch
from r1_mllm.training import sizing, step_time
from r1_mllm.training.step_time import Machine, Work

ARCHS = {name: ModelArch.from_dict(sizes) for name, sizes in sizing.PUBLISHED.items()}
ARCH = ARCHS["Qwen2.5-VL-3B"]
WORK = Work(prompts=1, generations=3, prompt=40, patches=64, completion=10, longest=16)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_the_weights_counted_are_those_of_the_checkpoint(arch):
    assert step_time.decoder_weights(arch.text) == step_time.num_text_weights(arch)


def test_a_forward_pass_counts_what_a_pack_counts():
    """visible_until of one prompt of 40 tokens and three completions of 10."""
    visible = np.concatenate([np.full(40, 70), *(np.full(10, 40 + 10 * (i + 1)) for i in range(3))])
    # operations.py counts, for each key, the queries that see it: a prompt token is seen by all 70 - j that follow
    assert step_time.text_forward(ARCH.text, WORK) == operations.text_operations(ARCH.text, visible, 30)
    two = dataclasses.replace(WORK, prompts=2)
    assert step_time.text_forward(ARCH.text, two) == 2 * step_time.text_forward(ARCH.text, WORK)


def test_reading_a_prompt_counts_its_last_token_only():
    visible = np.full(40, 40)
    assert step_time.prompt_forward(ARCH.text, 1, 40) == operations.text_operations(ARCH.text, visible, 1)


@pytest.mark.parametrize("side", [4, 8, 24])
def test_a_picture_counts_what_the_vision_tower_counts(side):
    """Sides of whole windows (8 patches): the closed form is exact there; one smaller picture is one window."""
    grids = np.array([[1, side, side]])
    assert step_time.vision_forward(ARCH.vision, side * side) == operations.vision_operations(ARCH.vision, grids)


def test_a_decode_step_reads_what_the_bench_says():
    weights = step_time.decoder_weights(ARCH.text) + ARCH.text.vocab_size * ARCH.text.hidden_size
    want = rollout.decode_work(ARCH.text, weights, groups=1, rows=3, prompt=40, new=10)
    assert step_time.decode_step(ARCH.text, WORK, width=4) == want


def test_rings_send_nearly_twice_the_bytes_over_the_slowest_link():
    machine = Machine(link=100e9, node_link=10e9, link_share=0.5)
    assert step_time.exchange_seconds(8_000_000_000, 1, machine) == 0
    assert step_time.exchange_seconds(8_000_000_000, 8, machine) == pytest.approx(2 * 7 / 8 * 8 / 50)
    assert step_time.exchange_seconds(8_000_000_000, 64, machine) == pytest.approx(2 * 63 / 64 * 8 / 5)


def config(**rollout_settings):
    return GrpoConfig(
        rollout=RolloutConfig(**rollout_settings),
        training=TrainingConfig(per_device_train_batch_size=2),
        objective=ObjectiveConfig(beta=0.04),
    )


def test_phases_move_as_their_causes_do():
    base = step_time.step_seconds(ARCH, config(), WORK)
    no_reference = dataclasses.replace(config(), objective=ObjectiveConfig(beta=0.0))
    assert step_time.step_seconds(ARCH, no_reference, WORK)["reference"] == 0 < base["reference"]
    again = dataclasses.replace(config(), model=dataclasses.replace(config().model, recompute=True))
    assert step_time.step_seconds(ARCH, again, WORK)["update"] / base["update"] == pytest.approx(4 / 3)
    adapters = dataclasses.replace(config(), lora=LoraConfig(use_peft=True))
    forward = step_time.text_forward(ARCH.text, WORK), step_time.vision_forward(ARCH.vision, WORK.patches)
    light = step_time.step_seconds(ARCH, adapters, WORK)
    assert light["update"] == pytest.approx((2 * forward[0] + forward[1]) / (312e12 * 0.4)) and light["reference"] == 0
    assert base["update"] == pytest.approx(3 * sum(forward) / (312e12 * 0.4))
    faster = dataclasses.replace(Machine(), peak_flops=2 * 312e12)
    assert step_time.step_seconds(ARCH, config(), WORK, machine=faster)["update"] == pytest.approx(base["update"] / 2)
    longer = dataclasses.replace(WORK, longest=32)
    assert step_time.step_seconds(ARCH, config(), longer)["decode"] == pytest.approx(2 * base["decode"])
    assert base["exchange"] == 0 < step_time.step_seconds(ARCH, config(), WORK, 8)["exchange"]


def test_few_rows_are_bound_by_reading_or_launches_and_many_by_products():
    eager = dataclasses.replace(Machine(), launch=1e-3)
    assert step_time.step_seconds(ARCH, config(), WORK, machine=eager)["decode"] == pytest.approx(16 * 36 * 24 * 1e-3)
    quick = dataclasses.replace(Machine(), launch=0.0)
    few = step_time.step_seconds(ARCH, config(), WORK, machine=quick)["decode"]
    assert few == pytest.approx(16 * step_time.decode_step(ARCH.text, WORK, 2)[0] / (2.039e12 * 0.6))
    many = dataclasses.replace(WORK, prompts=4000)
    products = step_time.decode_step(ARCH.text, many, 2)[1] / (312e12 * 0.4)
    assert step_time.step_seconds(ARCH, config(), many, machine=quick)["decode"] == pytest.approx(16 * products)


def test_work_is_taken_from_the_settings():
    work = Work.of(ARCH, config(num_generations=5, max_completion_length=64), prompt=300, visual=200, completion=100)
    assert work == Work(2, 5, 300, 800, 64, 64)


def test_the_command_prints_phases_and_memory(capsys):
    argv = "bench scaling --arch Qwen2.5-VL-3B --devices 8 --per_device_train_batch_size 8 --recompute True --beta 0"
    cli.main([*argv.split(), "--sharding", "stage2"])
    out = capsys.readouterr().out
    assert "Qwen2.5-VL-3B, 8 devices" in out and "fits 80 GB" in out and "completion tokens/s on 8 devices" in out
    assert [line.split()[0] for line in out.splitlines()[2:9]] == [
        *("prefill", "decode", "reference", "update", "exchange", "optimizer", "step")
    ]
