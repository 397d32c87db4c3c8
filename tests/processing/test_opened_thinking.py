# SPDX-License-Identifier: Apache-2.0
"""Prompts for base models: templates that are supplied, and the thinking that the prompt has opened already."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from r1_mllm.answers import tags
from r1_mllm.processing.conversation import pieces
from r1_mllm.processing.prompt import Processor
from r1_mllm.processing.template import named_template
from r1_mllm.records import Prompt
from r1_mllm.tasks import get_task

CHECKPOINT = Path(__file__).resolve().parents[1] / "golden/cases/e2e/checkpoint"
ROW = {"image": "a.png", "problem": "How many?", "solution": 3}


@pytest.fixture
def base(tmp_path):
    """A checkpoint as base models are published: no chat template, <|endoftext|> as only end."""
    folder = tmp_path / "base"
    shutil.copytree(CHECKPOINT, folder)
    for name in ("chat_template.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    for name, changes in {"tokenizer_config.json": {"chat_template": None}, "generation_config.json": {}}.items():
        content = json.loads((folder / name).read_text()) | changes
        if name == "generation_config.json":
            content["eos_token_id"] = Processor.from_pretrained(CHECKPOINT).tokenizer.token_id("<|endoftext|>")
        (folder / name).write_text(json.dumps(content))
    return folder


def chat(system=None):
    task = get_task("counting")
    return task.messages(task.example(ROW, "f:1"), system_prompt=system)


def test_a_base_model_gets_the_generic_template_and_the_log_says_so(base, caplog):
    with caplog.at_level(logging.WARNING):
        processor = Processor.from_pretrained(base)
    assert f"{base} has no chat template" in caplog.text and "--chat_template r1_zero" in caplog.text
    text, _ = processor._chat(chat(), True)
    assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    ends = {processor.tokenizer.token_id(token) for token in ("<|im_end|>", "<|endoftext|>")}
    assert ends <= set(processor.tokenizer.stop_ids)


def test_the_checkpoints_own_template_is_kept_and_nothing_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        processor = Processor.from_pretrained(CHECKPOINT)
    assert not caplog.text
    assert processor.encode([{"role": "user", "content": "hi"}]).opening == ""


def test_the_r1_zero_form_opens_the_thinking_for_any_task(base):
    processor = Processor.from_pretrained(base, chat_template="r1_zero")
    prompt = processor.encode([{"role": "user", "content": "How many?"}])
    assert prompt.opening == "<think>" and prompt.text.endswith(
        "Assistant: I will go through this step by step.\n<think>"
    )
    assert "\nUser: How many?\nAssistant:" in prompt.text and "<|im_start|>" not in prompt.text
    text, _ = processor._chat(chat(), True)
    assert "\nUser: <|vision_start|><|image_pad|><|vision_end|>How many?\nFirst think inside <think> </think>" in text


def test_a_system_turn_replaces_the_introduction(base):
    processor = Processor.from_pretrained(base, chat_template="r1_zero")
    text, _ = processor._chat(chat("Look twice."), True)
    assert text.startswith("Look twice.\n\nUser: ")


def test_the_plain_dialogue_opens_nothing(base):
    prompt = Processor.from_pretrained(base, chat_template="dialogue").encode([{"role": "user", "content": "hi"}])
    assert prompt.opening == "" and prompt.text.endswith("\nUser: hi\nAssistant:\n")


def test_answers_of_the_assistant_end_with_the_models_end_token(base):
    settings = json.loads((base / "tokenizer_config.json").read_text())
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = Processor.from_pretrained(base, chat_template="dialogue").tokenizer.render(turns, False)
    end = settings["eos_token"]
    assert text.endswith("\nUser: a\nAssistant:\nb" + (end if isinstance(end, str) else end["content"]))


@pytest.mark.parametrize(
    ("template", "answer", "learnt"),
    [
        ("dialogue", "left", "left<|endoftext|>"),
        ("generic", "left", "left<|im_end|>"),
        ("r1_zero", "<think>x</think><answer>left</answer>", "x</think><answer>left</answer><|endoftext|>"),
    ],
)
def test_supervised_answers_go_on_where_the_prompt_ends(base, template, answer, learnt):
    settings = json.loads((base / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    processor = Processor.from_pretrained(base, chat_template=template)
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": answer}]
    (asked, _), (found, is_learnt) = pieces(
        processor.tokenizer, [{**turn, "learn": turn["role"] == "assistant"} for turn in turns]
    )
    assert is_learnt and found == learnt and asked == processor.tokenizer.render(turns[:1])


def test_a_system_turn_may_be_a_list_of_parts(base):
    text, _ = Processor.from_pretrained(base, chat_template="dialogue")._chat(
        [{"role": "system", "content": [{"type": "text", "text": "Look."}]}, {"role": "user", "content": "a"}], True
    )
    assert text == "Look.\n\nUser: a\nAssistant:\n"


def test_a_question_that_ends_with_the_tag_opens_nothing():
    prompt = Processor.from_pretrained(CHECKPOINT).encode([{"role": "user", "content": "What is <think>"}])
    assert prompt.opening == ""


def test_a_template_of_ones_own_that_opens_with_a_line_break_is_understood(base, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[0]['content'] }}\n{% if add_generation_prompt %}<think>\n{{ '' }}{% endif %}")
    processor = Processor.from_pretrained(base, chat_template=str(own))
    assert processor.encode([{"role": "user", "content": "hi"}]).opening == "<think>\n"
    assert processor.encode([{"role": "user", "content": "hi"}], add_generation_prompt=False).opening == ""


def test_an_unknown_template_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'r1_one' is no file and none of dialogue, generic, r1_zero"):
        named_template("r1_one")


def test_format_and_answer_are_read_from_opening_and_continuation():
    continuation = "two and one</think><answer>3</answer>"
    assert not tags.split(continuation).ok
    parts = tags.split("<think>" + continuation)
    assert parts.ok and parts.answer == "3" and parts.think == "two and one"
    assert not tags.split("<think>" + "<think>" + continuation).ok


def test_the_engine_writes_the_opening_before_what_was_sampled():
    import numpy as np
    import paddle

    from r1_mllm.config import RolloutConfig
    from r1_mllm.models.weights import load_pretrained
    from r1_mllm.rollout.engine import Engine

    processor = Processor.from_pretrained(CHECKPOINT)
    paddle.seed(0)
    engine = Engine(load_pretrained(CHECKPOINT), processor.tokenizer, RolloutConfig(max_completion_length=4))
    chats = [[{"role": "user", "content": text}] for text in ("one", "two")]
    plain = [processor.encode(turns) for turns in chats]
    opened = [Prompt(**{**vars(prompt), "opening": f"<think>{i}"}) for i, prompt in enumerate(plain)]
    before, after = engine.generate(plain, 2, seed=3), engine.generate(opened, 2, seed=3)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        for a, b in zip(old, new, strict=True):
            assert b.text == f"<think>{i}" + a.text and np.array_equal(a.ids, b.ids)
