# SPDX-License-Identifier: Apache-2.0
"""Rows that join a running batch, leave it and bring their own settings get the tokens they would get alone."""

from pathlib import Path

import numpy as np
import pytest

from r1_mllm.config import RolloutConfig
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.rollout.engine import Engine
from r1_mllm.rollout.live import Live, Sampling, live_rows

FOLDER = Path(__file__).parents[1] / "golden" / "cases" / "e2e"


@pytest.fixture(scope="module")
def engine():
    processor = Processor.from_pretrained(FOLDER / "checkpoint")
    return Engine(load_pretrained(FOLDER / "checkpoint"), processor.tokenizer, RolloutConfig())


@pytest.fixture(scope="module")
def prompts():
    processor = Processor.from_pretrained(FOLDER / "checkpoint")
    pictured = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    plain = [[{"role": "user", "content": text}] for text in ("Why?", "Name three colours, please.")]
    return [processor.encode(pictured, [str(FOLDER / "images/a.png")]), *map(processor.encode, plain)]


def alone(engine, prompt, n, seed, length, **settings):
    one = Engine(engine.model, engine.tokenizer, RolloutConfig(**settings))
    return [done.ids.tolist() for done in one.generate([prompt], n, seed, max_new_tokens=length)[0]]


@pytest.mark.parametrize("max_rows", [pytest.param(5, marks=pytest.mark.slow), 64])
def test_rows_that_come_at_any_time_with_any_settings_get_their_own_tokens(engine, prompts, max_rows):
    kinds = [
        (0, 2, 70, {"temperature": 0.0}),
        (1, 3, 25, {"temperature": 1.0}),
        (2, 1, 40, {"temperature": 0.7, "top_p": 0.8}),
        (1, 1, 5, {"temperature": 1.3, "top_k": 20}),
        (0, 2, 66, {"temperature": 1.0}),
    ]
    live = Live(engine, max_rows, 10**6)
    asked = []
    for number, (which, n, length, settings) in enumerate(kinds):
        rows = live_rows(n, 100 + number, length, Sampling(**settings))
        live.join(prompts[which], rows)
        asked.append(rows)
        for _ in range(7):
            live.advance()
    while live.advance():
        pass
    for number, (which, n, length, settings) in enumerate(kinds):
        want = alone(engine, prompts[which], n, 100 + number, length, **settings)
        assert [row.ids for row in asked[number]] == want


def test_room_is_counted_as_a_rectangle_of_rows_and_as_tokens(engine, prompts):
    live = Live(engine, 4, 10**6)
    rows = [live_rows(2, 0, 9), live_rows(1, 1, 9), live_rows(1, 2, 9)]
    for prompt, own in zip(prompts, rows, strict=True):
        live.join(prompt, own)
    live.advance()  # two groups of at most two rows are four places; the third waits
    assert [len(own[0].ids) for own in rows] == [2, 2, 0]
    small = Live(engine, 64, len(prompts[0].ids) + 2 * 9)
    for prompt in prompts[:2]:
        small.join(prompt, live_rows(1, 0, 9))
    small.advance()
    assert len(small.waiting) == 1


def test_rows_given_up_leave_and_the_rest_does_not_notice(engine, prompts):
    live = Live(engine, 64, 10**6)
    kept, dropped, never = live_rows(1, 3, 40), live_rows(2, 4, 40), live_rows(1, 5, 40)
    live.join(prompts[0], kept)
    live.join(prompts[1], dropped)
    for _ in range(5):
        live.advance()
    live.join(prompts[2], never)
    for row in (*dropped, *never):
        row.done = True
    while live.advance():
        pass
    assert [row.ids for row in kept] == alone(engine, prompts[0], 1, 3, 40)
    assert len(dropped[0].ids) == 6 and not never[0].ids
    assert not live.cache.layers  # memory is given back when nobody is there


def test_noted_logprobs_are_those_of_the_policy_at_temperature_one(engine, prompts):
    live = Live(engine, 8, 10**6)
    (hot,) = live_rows(1, 6, 8, Sampling(temperature=1.0), num_top=3)
    live.join(prompts[0], [hot])
    while live.advance():
        pass
    np.testing.assert_allclose(hot.raw, hot.logprobs, atol=1e-5)
    assert [len(best) for best in hot.top] == [3] * 8
    assert all(best[0][1] >= best[1][1] >= best[2][1] for best in hot.top)
