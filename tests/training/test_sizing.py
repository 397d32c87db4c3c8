# SPDX-License-Identifier: Apache-2.0
import dataclasses
import subprocess
import sys

import pytest

from r1_mllm.config import GrpoConfig, LoraConfig, ModelConfig, ObjectiveConfig, SftConfig, ShardingConfig
from r1_mllm.config.flags import parse
from r1_mllm.models import lora
from r1_mllm.models.config import ModelArch
from r1_mllm.models.head import BLOCK_ELEMENTS
from r1_mllm.models.qwen_vl import QwenVL
from r1_mllm.training import sizing, step_time
from r1_mllm.training.optimizer import AdamW

STATE = ("weights", "masters", "moments", "reference", "gradients")


@pytest.fixture(scope="module")
def arch(request):
    return ModelArch.from_pretrained(request.config.rootpath / "tests/golden/cases/e2e/checkpoint")


def sizes(arch, config, world=1, device="gpu"):
    return {row.name: row.bytes for row in sizing.memory_estimate(arch, config, world, device)}


def test_published_networks_have_their_published_numbers_of_parameters():
    counts = {name: sizing.num_parameters(ModelArch.from_dict(c), GrpoConfig()) for name, c in sizing.PUBLISHED.items()}
    assert counts == {"Qwen2.5-VL-3B": (3_754_622_976,) * 2, "Qwen2.5-VL-7B": (8_292_166_656,) * 2}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": ModelConfig(freeze_vision=True)},
        {"model": ModelConfig(freeze_language=True)},
        {"lora": LoraConfig(use_peft=True, lora_r=3)},
        {"lora": LoraConfig(use_peft=True, lora_target_modules=("all-linear",), lora_exclude_modules=None)},
    ],
)
def test_parameters_moments_and_masters_are_those_of_the_network_to_the_byte(arch, changes):
    config = dataclasses.replace(GrpoConfig(), **changes)
    model = QwenVL(arch)
    model.set_freeze_vision(config.model.freeze_vision)
    model.set_freeze_language(config.model.freeze_language)
    if config.lora.use_peft:
        settings = config.lora
        chosen = settings.lora_target_modules, settings.lora_exclude_modules
        lora.attach(model, lora.AdapterSpec(settings.lora_r, settings.lora_alpha, *chosen))
    optimizer = AdamW(model.named_parameters(), config.optimizer)
    moments = sum(array.nbytes for name, array in optimizer.state_dict().items() if "/moment" in name)
    found = sizes(arch, config, device="cpu")
    assert found["weights"] == sum(parameter.size * 4 for parameter in model.parameters())
    assert found["moments"] == moments and "masters" not in found
    assert found["gradients"] == moments // 2
    assert found.get("reference", found["weights"]) == found["weights"]
    assert ("reference" in found) is not config.lora.use_peft
    assert sizes(arch, config)["masters"] == moments // 2 and sizes(arch, config)["weights"] == found["weights"] // 2


def test_sharding_divides_state_and_stage2_gradients_too():
    arch = ModelArch.from_dict(sizing.PUBLISHED["Qwen2.5-VL-3B"])
    num = 3_754_622_976
    config = GrpoConfig(objective=ObjectiveConfig(beta=0.0))
    whole = sizes(arch, config, 8)
    assert [whole.get(name) for name in STATE] == [2 * num, 4 * num, 8 * num, None, 6 * num]
    first = sizes(arch, dataclasses.replace(config, sharding=ShardingConfig("stage1")), 8)
    assert [first.get(name) for name in STATE] == [2 * num, num // 2, num, None, 6 * num]
    second = sizes(arch, dataclasses.replace(config, sharding=ShardingConfig("stage2", 2)), 8)
    assert [second.get(name) for name in STATE[:4]] == [2 * num, 2 * num, 4 * num, None]
    assert 2 * num < second["gradients"] < 2.1 * num
    third = sizes(arch, dataclasses.replace(config, sharding=ShardingConfig("stage3")), 8)
    assert third["gradients"] < second["gradients"] and third["activations"] < 0.2 * second["activations"]


def test_the_peak_takes_the_larger_of_sampling_and_training_and_the_table_says_whether_it_fits(arch):
    rows = [sizing.Row("a", 10**9, "always", ""), sizing.Row("b", 3 * 10**9, "sampling", "of b")]
    rows.append(sizing.Row("c", 2 * 10**9, "training", ""))
    assert sizing.total(rows) == 4 * 10**9
    table = sizing.describe(rows, 3.9).splitlines()
    assert len(table) == 4 and "of b" in table[1] and "4.00 GB" in table[3] and "does not fit 3.9 GB" in table[3]
    assert "sampling" not in {row.phase for row in sizing.memory_estimate(arch, SftConfig(), 2)}


def test_constants_are_those_of_the_modules_they_describe():
    assert sizing.LOGITS_BLOCK == BLOCK_ELEMENTS


def test_no_paddle_is_needed():
    code = "import sys, r1_mllm.training.sizing; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_rollout_keeps_copies_of_the_weights_that_have_adapters():
    """All of the decoder's linear weights, or of each layer the one that q_proj stands in: 2048 x (2048 + 2 x 256)."""
    arch = ModelArch.from_dict(sizing.PUBLISHED["Qwen2.5-VL-3B"])

    def merged(**lora):
        rows = sizing.memory_estimate(arch, GrpoConfig(lora=LoraConfig(use_peft=True, **lora)))
        return next(row.bytes for row in rows if row.name == "merged weights")

    assert merged() == 2 * step_time.decoder_weights(arch.text)
    assert merged(lora_target_modules=("q_proj",)) == 2 * 36 * 2048 * (2048 + 2 * 256)
    assert "merged weights" not in {row.name for row in sizing.memory_estimate(arch, GrpoConfig())}


def test_the_recipe_for_one_card_of_24_gb_leaves_a_quarter_of_it_free(request):
    path = request.config.rootpath / "configs/grpo_rec_3b_lora_24gb.yaml"
    config = parse(GrpoConfig, ["--config", str(path)], "grpo")
    arch = ModelArch.from_dict(sizing.PUBLISHED["Qwen2.5-VL-3B"])
    assert config.lora.use_peft and sizing.total(sizing.memory_estimate(arch, config)) < 18e9
