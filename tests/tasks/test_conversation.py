# SPDX-License-Identifier: Apache-2.0
"""Every layout of supervised rows becomes the same turns; what cannot be learnt is named."""

import pytest

from r1_mllm.tasks.conversation import example

IMAGE, ASK, TELL = {"type": "image"}, {"type": "text", "text": "What is it?"}, {"type": "text", "text": "A cat."}
TURNS = (
    {"role": "user", "content": [IMAGE, ASK], "learn": False},
    {"role": "assistant", "content": [TELL], "learn": True},
)
ROWS = {
    "messages": {
        "messages": [
            {"role": "user", "content": "<image>What is it?"},
            {"role": "assistant", "content": "A cat."},
        ],
        "images": ["a.png"],
    },
    "mark before a line end": {
        "messages": [
            {"role": "user", "content": "<image>\nWhat is it?"},
            {"role": "assistant", "content": "A cat."},
        ],
        "images": ["a.png"],
    },
    "no mark": {
        "messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}],
        "image": "a.png",
    },
    "conversations": {
        "id": 3,
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A cat."}],
    },
    "parts, as parquet gives them": {
        "messages": [
            {"role": "user", "content": [{**IMAGE, "text": None}, {**ASK, "image": None}]},
            {"role": "assistant", "content": [{**TELL, "image": None}]},
        ],
        "images": [{"bytes": None, "path": "a.png"}],
    },
    "a part that holds its picture": {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, ASK]},
            {"role": "assistant", "content": "A cat."},
        ],
    },
    "prompt and completion": {
        "prompt": [{"role": "user", "content": "What is it?"}],
        "completion": [{"role": "assistant", "content": "A cat."}],
        "images": ["a.png"],
    },
    "problem and solution": {"problem": "<image>What is it?", "solution": "A cat.", "image": "a.png"},
    "question and answer": {"question": "What is it?", "answer": "A cat.", "image_path": "a.png"},
}


@pytest.mark.parametrize("name", ROWS)
def test_every_layout_gives_the_same_turns(name):
    found = example(ROWS[name], "rows.jsonl:1", "root")
    assert found.answer == TURNS and found.images == ("root/a.png",) and found.question == "What is it?"
    assert found.meta["where"] == "rows.jsonl:1"


def test_several_turns_keep_their_pictures_where_they_stand():
    row = {
        "system": "Be short.",
        "conversations": [
            {"from": "human", "value": "<image>One?"},
            {"from": "gpt", "value": "1"},
            {"from": "human", "value": "<image> and <image>?"},
            {"from": "gpt", "value": "2"},
        ],
        "image": ["a", "b", "c"],
    }
    found = example(row, "x:1")
    assert [turn["role"] for turn in found.answer] == ["system", "user", "assistant", "user", "assistant"]
    assert [part.get("text") for part in found.answer[3]["content"]] == [None, "and", None, "?"]
    assert [turn["learn"] for turn in found.answer] == [False, False, True, False, True]


def test_turns_of_weight_0_and_numbers_and_thinking():
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    found = example(
        {"messages": [*said, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}, "x:1"
    )
    assert [turn["learn"] for turn in found.answer] == [False, False, False, True]
    with pytest.raises(ValueError, match="x:1: no answer is to be learnt"):
        example({"messages": said}, "x:1")
    counted = example({"question": "How many?", "ground_truth": 4}, "x:1")
    assert counted.answer[1]["content"] == [{"type": "text", "text": "4"}]
    thought = example({"problem": "p", "thinking": "<think>t</think>", "solution": "<answer>s</answer>"}, "x:1")
    assert thought.answer[1]["content"][0]["text"] == "<think>t</think>\n\n<answer>s</answer>"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"images": ["a"]}, "no conversation; a row needs `messages`"),
        ({"messages": [user("a"), {"role": "tool", "content": "b"}]}, "unknown role 'tool'"),
        ({"messages": [user("a")]}, "turns user; the user begins and the assistant ends"),
        ({"messages": [assistant("a")]}, "the user begins"),
        ({"messages": [user("a"), {"role": "system", "content": "s"}, assistant("b")]}, "system turn after"),
        ({"messages": [user("<image>a"), assistant("b")], "images": ["a", "b"]}, "1 <image> marks but 2 pictures"),
        ({"messages": [user("a"), assistant("<image>b")], "images": ["a"]}, "pictures belong to the user"),
        ({"messages": [user("a"), assistant(" ")]}, "an empty answer"),
        ({"messages": [user("a"), {"role": "assistant"}]}, "no role and content"),
        ({"messages": "text"}, "messages is str"),
        ({"messages": [user(5), assistant("b")]}, "user says is int"),
        ({"messages": [user([{"type": "video"}]), assistant("b")]}, "neither text nor image"),
        ({"problem": "p", "solution": [1, 2, 3, 4]}, "the answer to learn is list"),
    ],
)
def test_what_cannot_be_learnt_names_the_place(row, told):
    with pytest.raises(ValueError, match="f:9: ") as error:
        example(row, "f:9")
    assert told in str(error.value)
