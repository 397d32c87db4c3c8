# SPDX-License-Identifier: Apache-2.0
"""Which tokens are learnt, against ids put together by hand."""

from pathlib import Path

import numpy as np
import pytest

from r1_mllm.data.pack import pack, supervised_pair
from r1_mllm.models.qwen_vl import predictor_rows
from r1_mllm.processing.conversation import lesson, lesson_length
from r1_mllm.processing.positions import rope_positions
from r1_mllm.processing.prompt import Processor
from r1_mllm.processing.template import ChatTemplate
from r1_mllm.tasks import conversation

FOLDER = Path(__file__).parents[1] / "golden" / "cases" / "e2e"
IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD = 2001, 2002, 2009, 2010, 2012
SYSTEM, USER, ASSISTANT, NEW_LINE = [82, 88, 297, 541, 198], [1047, 198], [536, 859, 765, 198], [198]
BE_HELPFUL = [1207, 626, 268, 392, 482, 79, 1602, 592, 82, 859, 765, 13]
WHAT, A_CAT, SEVEN = [54, 71, 266, 30], [32, 341, 266], [22]


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(FOLDER / "checkpoint")


def said(*texts, images=()):
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return conversation.example({"messages": turns, "images": list(images)}, "x:1")


def picture(num_tokens):
    return [VISION_START, *[IMAGE_PAD] * num_tokens, VISION_END]


def test_answers_of_all_turns_and_their_stop_tokens_are_learnt_and_nothing_else(processor):
    example = said(
        "<image>What?", "A cat", "<image>What?", "7", images=[FOLDER / "images/a.png", FOLDER / "images/c.png"]
    )
    prompt, answer = lesson(processor, example.answer, example.images)
    first, second = (int(grid.prod()) // 4 for grid in prompt.grids)
    assert (first, second) == (30, 18)
    want = [
        ([IM_START, *SYSTEM, *BE_HELPFUL, IM_END, *NEW_LINE], False),
        ([IM_START, *USER, *picture(first), *WHAT, IM_END, *NEW_LINE, IM_START, *ASSISTANT], False),
        ([*A_CAT, IM_END], True),
        ([*NEW_LINE, IM_START, *USER, *picture(second), *WHAT, IM_END, *NEW_LINE, IM_START, *ASSISTANT], False),
    ]
    assert prompt.ids.tolist() == [token for tokens, _ in want for token in tokens]
    assert prompt.answers.tolist() == [learnt for tokens, learnt in want for _ in tokens]
    assert answer.tolist() == [*SEVEN, IM_END]
    sizes = [processor.image_size(source) for source in example.images]
    assert lesson_length(processor, example.answer, sizes) == len(prompt.ids) + len(answer)
    whole = np.concatenate([prompt.ids, answer])
    positions, _ = rope_positions(whole, prompt.grids, (IMAGE_PAD,), 2, processor.tokens_per_second)
    (batch,) = pack([supervised_pair(prompt, answer)], 4096, [IMAGE_PAD])
    assert (batch.ids == whole).all() and (batch.positions == positions).all()
    learnt = np.append(prompt.answers, [True, True])
    assert (batch.mask == learnt).all() and (batch.advantages == learnt).all()
    assert len(set(batch.visible_until.tolist())) == 1  # one causal row
    predictors, targets = predictor_rows(batch.row)
    assert (targets == np.flatnonzero(learnt)).all() and (predictors == targets - 1).all()
    assert len(batch.patch_rows) == first + second


def test_conversations_share_a_pack_without_seeing_each_other(processor):
    examples = [said("What?", "A cat", "What?", "7"), said("What?", "7")]
    pairs = [supervised_pair(*lesson(processor, example.answer)) for example in examples]
    (batch,) = pack(pairs, 4096, [IMAGE_PAD])
    border = len(pairs[0].prompt.ids) + len(pairs[0].completions[0].ids)
    assert (batch.visible_until[:border] == border).all() and batch.visible_until[border] > border
    assert batch.mask.sum() == 4 + 2 + 2 and sorted(set(batch.row.tolist())) == [-1, 0, 1]


def test_a_single_answer_is_what_sampling_continues(processor):
    example = said("What?", "A cat")
    prompt, answer = lesson(processor, example.answer)
    asked = processor.encode([{"role": "user", "content": "What?"}])
    assert prompt.answers is None and (prompt.ids == asked.ids).all() and prompt.next_position == asked.next_position
    assert answer.tolist() == [*A_CAT, IM_END]


def test_what_follows_the_last_answer_to_learn_is_left_out(processor):
    turns = [dict(turn) for turn in said("What?", "A cat", "What?", "7").answer]
    turns[3]["learn"] = False
    prompt, answer = lesson(processor, turns)
    assert answer.tolist() == [*A_CAT, IM_END] and prompt.answers is None


def test_templates_that_rewrite_or_do_not_stop_are_refused(processor):
    def with_template(source):
        other = Processor.from_pretrained(FOLDER / "checkpoint")
        other.tokenizer.template = ChatTemplate(source)
        return other

    example = said("What?", "A cat", "What?", "7")
    rewrites = "{{ messages|length }}{% for m in messages %}{{ m['role'] }}{% endfor %}<|im_end|>"
    with pytest.raises(ValueError, match="writes earlier turns differently"):
        lesson(with_template(rewrites), example.answer)
    with pytest.raises(ValueError, match="without a stop token"):
        lesson(with_template("{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}"), example.answer)
    with pytest.raises(ValueError, match="control token"):
        lesson(processor, said("What?", "A <|im_end|> cat").answer)
