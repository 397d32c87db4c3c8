# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a conversation are answers: the assistant's words and its stop token, and nothing else.

The chat template is rendered up to each answer as for sampling, and up to its end; what lies between is the answer.
Answers are tokenised on their own, as a model writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..records import Prompt
from .image import Source
from .prompt import Processor, check_texts
from .tokenizer import Tokenizer


def lesson(
    processor: Processor, turns: Sequence[Mapping[str, Any]], images: Sequence[Source] = ()
) -> tuple[Prompt, np.ndarray]:
    """Prepare a conversation for learning.

    Args:
        turns: role, content and learn of each turn (tasks/conversation.py).  images: fill the image parts in order.

    Returns:
        What comes before the last answer to learn, with earlier ones marked in `answers`, and that answer's ids [C]
        int64, stop token included.

    Raises:
        ValueError: a picture cannot be used, or the template does not end or continue answers as sampling does.
    """
    ids, learnt, last = token_ids(processor, turns)
    marks = learnt[:last]
    return processor.encode_ids(ids[:last], images, answers=marks if marks.any() else None), ids[last:]


def lesson_length(
    processor: Processor, turns: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]] = ()
) -> int:
    """Count the tokens of a lesson from the (width, height) px of its pictures."""
    ids, _, _ = token_ids(processor, turns)
    processor.check_count(ids, len(sizes))
    return len(ids) + sum(processor.pixels.num_tokens(size) - 1 for size in sizes)


def token_ids(processor: Processor, turns: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids [n] int64 up to the last answer to learn, which of them are learnt [n] bool, and where that answer starts."""
    check_texts(turns)
    ids, learnt, last = [], [], 0
    for text, is_learnt in pieces(processor.tokenizer, turns):
        found = processor.tokenizer.encode(text)
        if is_learnt:
            last = sum(map(len, ids))
        ids.append(found)
        learnt.append(np.full(len(found), is_learnt))
    return np.concatenate(ids), np.concatenate(learnt), last


def pieces(tokenizer: Tokenizer, turns: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Cut a rendered conversation into (text, is it learnt), up to the end of the last answer to learn."""
    stops = [tokenizer.backend.id_to_token(token) for token in tokenizer.stop_ids]
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    written = ""
    for i_turn in (i for i, turn in enumerate(turns) if turn["learn"]):
        before = tokenizer.render(messages[:i_turn], add_generation_prompt=True)
        through = tokenizer.render(messages[: i_turn + 1], add_generation_prompt=False)
        if not before.startswith(written) or not through.startswith(before):
            raise ValueError(
                "the chat template writes earlier turns differently once later ones follow, so that answers cannot be "
                "told apart; give another one (chat_template.jinja in the model folder)"
            )
        answer = through[len(before) :]
        ends = [answer.index(stop) + len(stop) for stop in stops if stop in answer]
        if not ends:
            raise ValueError(f"the chat template ends an answer without a stop token ({', '.join(stops)})")
        yield before[len(written) :], False
        yield answer[: min(ends)], True
        written = before + answer[: min(ends)]
