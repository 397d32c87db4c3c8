# SPDX-License-Identifier: Apache-2.0
"""The engine on a tiny real checkpoint: rows do not depend on neighbours, log-probabilities are the model's."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm.config import RolloutConfig
from r1_mllm.data.pack import pack
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.records import Example, Group
from r1_mllm.rollout import prefill
from r1_mllm.rollout.cache import Cache
from r1_mllm.rollout.decoder import Decoder
from r1_mllm.rollout.engine import Engine
from r1_mllm.runtime import Stop

FOLDER = Path(__file__).parents[1] / "golden" / "cases" / "e2e"


@pytest.fixture(scope="module")
def model():
    return load_pretrained(FOLDER / "checkpoint")


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(FOLDER / "checkpoint")


@pytest.fixture(scope="module")
def prompts(ask):
    return [ask("How many?", "a.png"), ask("Which one is brighter, please?", "b.jpg", "c.png"), ask("Why?")]


def ids_of(groups):
    return [[completion.ids.tolist() for completion in group] for group in groups]


def test_a_rows_sample_does_not_depend_on_its_neighbours(model, processor, prompts):
    together = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=40)).generate(prompts, 3, seed=5)
    few = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=40, rollout_batch_rows=3))
    assert ids_of(few.generate(prompts, 3, seed=5)) == ids_of(together)
    assert ids_of(few.generate(prompts, 2, seed=5)) == [rows[:2] for rows in ids_of(together)]
    assert ids_of(few.generate(prompts, 3, seed=6)) != ids_of(together)
    flat = [ids for rows in ids_of(together) for ids in rows]
    assert len({tuple(ids) for ids in flat}) == len(flat)


def test_rows_of_different_lengths_leave_and_others_join(model, processor, prompts):
    """Stopping on a tenth of the vocabulary makes rows end everywhere; the rest must not notice."""

    class Often:
        stop_ids = tuple(range(0, 2000, 10))
        banned_ids = processor.tokenizer.banned_ids

        @staticmethod
        def decode(ids, skip_special_tokens):
            return ""

    config = RolloutConfig(max_completion_length=150)  # more than one block of tail columns
    want = Engine(model, Often, config).generate(prompts, 6, seed=1)
    got = Engine(model, Often, RolloutConfig(max_completion_length=150, rollout_batch_rows=7)).generate(
        prompts, 6, seed=1
    )
    assert ids_of(got) == ids_of(want)
    lengths = {len(completion.ids) for group in want for completion in group}
    assert len(lengths) > 4
    for group in want:
        for completion in group:
            stops = np.isin(completion.ids, Often.stop_ids)
            assert completion.finished == stops[-1] and not stops[:-1].any()


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_logprobs_are_those_of_the_policy_pass(model, processor, prompts, temperature):
    config = RolloutConfig(max_completion_length=12, temperature=temperature)
    sampled = Engine(model, processor.tokenizer, config).generate(prompts, 3, seed=3)
    groups = [
        Group(Example("rec", "", None), prompt, completions)
        for prompt, completions in zip(prompts, sampled, strict=True)
    ]
    visual = [processor.tokenizer.image_pad_id, processor.tokenizer.video_pad_id]
    (batch,) = pack(groups, 4096, visual)
    with paddle.no_grad():
        logp = model.token_logp(batch, temperature).numpy()
    np.testing.assert_allclose(logp[batch.mask], batch.sampler_logp[batch.mask], atol=2e-4)
    assert (logp[batch.row < 0] == 0).all()


def test_equal_prompts_are_read_once_and_pictures_encoded_once(model, processor, prompts, monkeypatch):
    read, encoded = [], []
    prefill, embed = Decoder.prefill, type(model).embed_images
    monkeypatch.setattr(Decoder, "prefill", lambda self, p, v: (read.append(len(p)), prefill(self, p, v))[1])
    monkeypatch.setattr(
        type(model),
        "embed_images",
        lambda self, pixels, grids: (encoded.append(len(grids)), embed(self, pixels, grids))[1],
    )
    engine = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=4))
    groups = engine.generate([prompts[0], prompts[2], prompts[0]], 2, seed=0)
    assert sum(read) == 2 and encoded == [1]
    assert ids_of(groups)[0] != ids_of(groups)[2]  # other random numbers, the same prompt


def test_a_picture_shared_by_two_questions_is_encoded_once(model, processor, prompts, monkeypatch):
    content = [{"type": "image"}, {"type": "text", "text": "Where?"}]
    other = processor.encode([{"role": "user", "content": content}], [str(FOLDER / "images" / "a.png")])
    engine = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=6))
    alone = [engine.generate([prompt], 1, seed=0, greedy=True)[0][0].ids.tolist() for prompt in (prompts[0], other)]
    encoded = []
    embed = type(model).embed_images
    monkeypatch.setattr(
        type(model),
        "embed_images",
        lambda self, pixels, grids: (encoded.append(len(grids)), embed(self, pixels, grids))[1],
    )
    both = engine.generate([prompts[0], other], 1, seed=0, greedy=True)
    assert encoded == [1]
    assert [group[0].ids.tolist() for group in both] == alone


def test_vision_ids_never_come_out(model, processor, prompts):
    config = RolloutConfig(max_completion_length=60, temperature=5.0)
    groups = Engine(model, processor.tokenizer, config).generate(prompts, 8, seed=2)
    written = np.concatenate([completion.ids for group in groups for completion in group])
    assert len(written) > 800 and not np.isin(written, processor.tokenizer.banned_ids).any()


def test_nothing_to_do_is_an_error(model, processor, prompts):
    engine = Engine(model, processor.tokenizer, RolloutConfig())
    with pytest.raises(ValueError, match="n=0"):
        engine.generate(prompts, 0, seed=0)


@pytest.mark.parametrize("most", [1, 7, 30])
def test_a_long_prompt_read_in_pieces_gives_the_same_cache_and_logits(model, prompts, most):
    decoder = Decoder(model)
    want, logits = prefill.read(decoder, prompts, 8192)
    got, in_pieces = prefill.read(decoder, prompts, most)
    np.testing.assert_allclose(in_pieces.numpy(), logits.numpy(), atol=2e-5)
    np.testing.assert_array_equal(got.lengths, want.lengths)
    for ours, theirs in zip(got.kv, want.kv, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-5)


def test_no_pass_is_longer_than_prefill_tokens(model, processor, prompts, monkeypatch):
    passes, embed = [], type(model.text).forward
    monkeypatch.setattr(
        type(model.text), "forward", lambda self, x, *rest: (passes.append(len(x)), embed(self, x, *rest))[1]
    )
    config = RolloutConfig(max_completion_length=3, prefill_tokens=16)
    Engine(model, processor.tokenizer, config).generate(prompts, 2, seed=0)
    assert max(passes) == 16 and sum(passes) == sum(len(prompt.ids) for prompt in prompts)


@pytest.mark.parametrize("mb", [*(pytest.param(mb, marks=pytest.mark.slow) for mb in (0.11, 0.17)), 0.3])
def test_memory_for_keys_and_values_is_kept_within_its_limit(model, processor, prompts, mb, monkeypatch):
    """0.11 MB holds one row of the longest prompt: its job is cut, too."""
    largest, regrid = [], Cache.regrid
    monkeypatch.setattr(Cache, "regrid", lambda self, *args: (regrid(self, *args), largest.append(self.bytes()))[0])
    free = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=100))
    want = free.generate(prompts, 3, seed=5)
    assert free.peak_cache_bytes == max(largest) > 0.3 * 2**20
    largest.clear()
    bound = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=100, rollout_cache_mb=mb))
    assert ids_of(bound.generate(prompts, 3, seed=5)) == ids_of(want)
    assert bound.peak_cache_bytes == max(largest) <= mb * 2**20


def test_a_limit_below_one_row_says_what_it_needs(model, processor, prompts):
    engine = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=4000, rollout_cache_mb=1))
    with pytest.raises(Stop, match=r"rollout_cache_mb 1: one row of a prompt of \d+ tokens and .* needs \d+ MB"):
        engine.generate(prompts, 3, seed=5)


def test_the_longest_expected_begin_first_and_sample_the_same(model, processor, prompts, monkeypatch):
    begun, read = [], prefill.read
    monkeypatch.setattr(
        "r1_mllm.rollout.engine.read",
        lambda decoder, waiting, *rest: (begun.extend(len(one.ids) for one in waiting), read(decoder, waiting, *rest))[
            1
        ],
    )
    engine = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=40, rollout_batch_rows=3))
    want = engine.generate(prompts, 3, seed=5)
    assert begun == [len(prompt.ids) for prompt in prompts]
    begun.clear()
    assert ids_of(engine.generate(prompts, 3, seed=5, expected=[7.0, None, 30.0])) == ids_of(want)
    assert begun == [len(prompts[i].ids) for i in (2, 1, 0)]


def test_a_smaller_cache_type_takes_half_the_memory_and_nearly_the_same_tokens(model, processor, prompts):
    want = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=12))
    half = Engine(model, processor.tokenizer, RolloutConfig(max_completion_length=12, cache_dtype="bfloat16"))
    pairs = zip(want.generate(prompts, 2, seed=5), half.generate(prompts, 2, seed=5), strict=True)
    assert 0.45 < half.peak_cache_bytes / want.peak_cache_bytes <= 0.5  # float32 on a CPU pads prompts to whole blocks
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours[0].logprobs[0], theirs[0].logprobs[0], atol=1e-5)  # read before any cache
        assert [one.ids[0] for one in ours] == [one.ids[0] for one in theirs]
