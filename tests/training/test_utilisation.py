# SPDX-License-Identifier: Apache-2.0
"""Operations are those a slow count over tokens finds; rates follow by hand."""

import numpy as np
import pytest

from r1_mllm.data.pack import pack
from r1_mllm.models import operations
from r1_mllm.models.config import ModelArch
from r1_mllm.records import Completion, Example, Group, Prompt
from r1_mllm.training import sizing, utilisation
from r1_mllm.training.utilisation import Meter

ARCH = ModelArch.from_dict(sizing.PUBLISHED["Qwen2.5-VL-3B"])
LENGTHS = (3, 7, 12)
GRIDS = np.array([[1, 8, 16], [1, 4, 4]])


class Reading:
    def __init__(self, alive, traced):
        self.alive, self.traced = alive, traced


def group(grids=None, alive=None, lengths=LENGTHS, answers=None, num=40, traced=False):
    pixels = None if grids is None else np.zeros((int(grids.prod(axis=1).sum()), 2), np.float32)
    positions = np.zeros((3, num), np.int64)
    asked = Prompt(np.arange(num), positions, num, pixels=pixels, grids=grids, answers=answers)
    done = [Completion(np.arange(n), np.zeros(n, np.float32), "", True) for n in lengths]
    return Group(Example("counting", "", 0), asked, done, reading=None if alive is None else Reading(alive, traced))


def meter(text_back=2, vision_back=2, has_reference=True, peak=10e12, world=1):
    return Meter(ARCH, text_back, vision_back, has_reference, peak, world)


def packed(one):
    (batch,) = pack([one], 8192, ())
    return operations.pack_operations(ARCH, batch)


def test_passes_count_what_their_packs_count():
    for grids in (None, GRIDS):
        assert meter().scoring([group(grids)]) == packed(group(grids))
        assert meter().update([group(grids), group()]) == 3 * (packed(group(grids)) + packed(group()))
    assert meter(has_reference=False).scoring([group()]) == 0
    earlier = np.arange(40) % 4 == 1
    assert meter().update([group(lengths=(5,), answers=earlier)]) == 3 * packed(group(lengths=(5,), answers=earlier))


def test_what_does_not_learn_saves_its_way_back():
    text, vision = packed(group()), packed(group(GRIDS)) - packed(group())
    assert vision == operations.vision_operations(ARCH.vision, GRIDS)
    assert meter(text_back=1, vision_back=0).update([group(GRIDS)]) == 2 * text + vision
    assert meter(vision_back=0).update([group(GRIDS)]) == 3 * text + vision


def test_a_prompt_taken_over_from_the_sampler_is_not_read_again():
    prompt = operations.text_operations(ARCH.text, np.full(40, 40), 0)
    vision = operations.vision_operations(ARCH.vision, GRIDS)
    whole = meter().update([group(GRIDS)])
    assert meter().update([group(GRIDS, alive=True)]) == whole - prompt - vision
    assert meter().update([group(GRIDS, alive=False)]) == whole
    head = 2 * ARCH.text.hidden_size * ARCH.text.vocab_size * sum(LENGTHS)
    completions = packed(group()) - prompt - head  # of which the head works again
    assert meter().update([group(GRIDS, alive=True, traced=True)]) == whole - prompt - vision - completions


def test_sampling_is_counted_token_by_token():
    text, heads = ARCH.text, ARCH.text.num_attention_heads * ARCH.text.head_dim
    widths = [heads, heads, *[text.num_key_value_heads * text.head_dim] * 2, *[text.intermediate_size] * 3]
    weights = 2 * text.hidden_size * sum(widths)
    head = 2 * text.hidden_size * text.vocab_size
    seen = [*range(1, 41), *(40 + j for n in LENGTHS for j in range(1, n))]  # the last token of a row is never read
    total = sum(text.num_hidden_layers * (weights + 4 * others * heads) for others in seen)
    total += head * (1 + sum(n - 1 for n in LENGTHS))
    assert meter().sampling([group()]) == total
    assert meter().sampling([group(GRIDS)]) == total + operations.vision_operations(ARCH.vision, GRIDS)


def test_rates_by_hand(monkeypatch):
    """6e12 in 2 s are 3e12/s, 0.3 of 10e12/s; 4e12 in an update of 0.5 s are 0.8 of it."""
    seconds = {"time/update": 0.5, "time/generate": 1.0}
    rates = meter().rates(6 * 10**12, 4 * 10**12, seconds, 2.0)
    assert rates == pytest.approx({"perf/tflops": 3.0, "perf/mfu": 0.3, "perf/mfu_actor": 0.8})
    assert meter(peak=None).rates(6 * 10**12, 0, seconds, 2.0) == pytest.approx({"perf/tflops": 3.0})
    monkeypatch.setattr(utilisation.collectives, "sum_scalars", lambda values: {n: 2.5 * v for n, v in values.items()})
    two = meter(world=2).rates(6 * 10**12, 4 * 10**12, seconds, 2.0)
    assert two == pytest.approx({"perf/tflops": 3.75, "perf/mfu": 0.375, "perf/mfu_actor": 1.0})


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-32GB", 125),
        ("NVIDIA GeForce GT 710", None),
    ],
)
def test_known_gpus_by_their_names(name, tera):
    assert utilisation.known_peak(name) == (None if tera is None else tera * 1e12)
