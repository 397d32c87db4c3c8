# SPDX-License-Identifier: Apache-2.0
"""Rows of a task as conversations, read back by what supervised fine-tuning reads."""

import json

import pytest
from PIL import Image

from r1_mllm.cli import main
from r1_mllm.data import read
from r1_mllm.data.lessons import MessagesConfig, write_messages
from r1_mllm.data.synthetic import write_splits
from r1_mllm.tasks import conversation, get_task


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_sat_rows_become_a_question_with_its_picture_and_the_right_option(tmp_path, capsys):
    made, _ = write_splits("spatial", 5, tmp_path / "SAT", 2, container="parquet")
    shard = made / "data" / "train-00000-of-00001.parquet"
    out = tmp_path / "sft" / "SAT_train_4.jsonl"
    main(["data", "messages", str(shard), "--task", "sat", "--num", "4", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}: 4 conversations\n"
    written = lines(out)
    for row, (source, where) in zip(written, read.rows(shard), strict=False):
        example = conversation.example(row, "f:1", str(out.parent))
        asked, reply = example.answer
        assert conversation.text_of(reply) == source["correct_answer"]
        assert [part["type"] for part in asked["content"]] == ["image", "text"]
        assert conversation.text_of(asked).startswith(get_task("sat").example(source, where).question)
        with Image.open(example.images[0]) as picture:
            assert picture.size == (84, 84)
    assert len(written) == 4 and written[0]["images"] == ["SAT_train_4_images/000000_0.png"]


def test_pictures_beside_the_file_stay_where_they_are_and_others_are_copied(tmp_path):
    path, _ = write_splits("counting", 2, tmp_path / "set", 1)
    write_messages(MessagesConfig(str(path), str(tmp_path / "set" / "x.jsonl"), task="counting"))
    row = lines(tmp_path / "set" / "x.jsonl")[0]
    assert row["images"] == ["images/train_000000.png"] and row["messages"][1]["content"].isdigit()
    write_messages(MessagesConfig(str(path), str(tmp_path / "other" / "x.jsonl"), task="counting"))
    row = lines(tmp_path / "other" / "x.jsonl")[1]
    assert row["images"] == ["x_images/000001_0.png"] and (tmp_path / "other" / row["images"][0]).is_file()


@pytest.mark.parametrize(
    ("changes", "message"), [({"out": "x.json"}, "written as .jsonl"), ({"num": 0}, "at least one row")]
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        write_messages(MessagesConfig(**{"source": "a.json", "out": "x.jsonl", **changes}))
