# SPDX-License-Identifier: Apache-2.0
"""verl's parquet in and out, and the layouts of published mathematics sets; real MathVision rows among them."""

import io
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from r1_mllm.cli import main
from r1_mllm.config import DataConfig
from r1_mllm.data import convert, read, verl
from r1_mllm.data.mixture import load_examples
from r1_mllm.runtime import DATA
from r1_mllm.tasks import get_task

MATHVISION = Path(__file__).parents[1] / "data_files" / "mathvision"
PROMPTS = Path(__file__).parents[2] / "configs" / "prompts_boxed.yaml"


def png(shade=7, side=32):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def run(source, out, **settings):
    return convert.convert(convert.ConvertConfig(str(source), str(out), **settings))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def examples_of(path):
    return load_examples(DataConfig(task="math_boxed", dataset_name=str(path)), quarantine_file=None)[0]


def test_real_mathvision_rows_go_to_verl_and_come_back_equal(tmp_path):
    num, made = run(MATHVISION / "problems.jsonl", tmp_path / "verl" / "mathvision.parquet")
    assert num == 8
    for row in pyarrow.parquet.read_table(made).to_pylist():
        assert list(row) == ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"]
        (turn,) = row["prompt"]
        assert turn["role"] == "user" and turn["content"].count("<image>") == len(row["images"]) == 1
        assert turn["content"].endswith(verl.PROMPT_TAIL) and row["data_source"] == "MathLLMs/MathVision"
        assert row["reward_model"]["style"] == "rule" and row["extra_info"]["question"] in turn["content"]
    direct, through = examples_of(MATHVISION / "problems.jsonl"), examples_of(made)
    for one, other in zip(direct, through, strict=True):
        assert (one.question, one.answer) == (other.question, other.answer)
        assert one.meta["options"] == other.meta["options"] and one.meta["subject"] == other.meta["subject"]
        assert Path(one.images[0]).read_bytes() == other.images[0]
    main(["data", "convert", str(made), "--out", str(tmp_path / "back" / "problems.jsonl")])
    rows = [[row for row, _ in read.rows(folder / "problems.jsonl")] for folder in (MATHVISION, tmp_path / "back")]
    assert rows[0] == rows[1]
    for row in rows[0]:
        assert (MATHVISION / row["image"]).read_bytes() == (tmp_path / "back" / row["image"]).read_bytes()


def test_a_question_with_several_marks_for_one_file_keeps_them_as_words(tmp_path):
    _, made = run(MATHVISION / "problems.jsonl", tmp_path / "m.parquet")
    row = next(row for row, _ in read.rows(made) if row["extra_info"]["id"] == "69")
    content = row["prompt"][0]["content"]
    assert content.startswith("<image>\nLisa has") and "(picture 1)" in content and "(picture 3)" in content
    assert "<image1>" not in content


CONTENT = png()
LAYOUTS = {
    "geometry3k": (
        {"images": [{"bytes": CONTENT, "path": None}], "problem": "<image>Find x.", "answer": "11"},
        ("Find x.", "11", 1),
    ),
    "mathvision": (
        {"id": "3", "question": "Which?\n<image1>", "options": ["2", "5"], "image": "images/3.jpg",
         "decoded_image": {"bytes": CONTENT, "path": None}, "answer": "B", "level": 2, "subject": "logic"},
        ("Which?\n(A) 2\n(B) 5", "B", 1),
    ),
    "polymath": (
        {"category": "odd_one_out", "answer_option": "1, 2, 3, 4", "final_answer": "3", "final_answer_range": "1-4",
         "image": {"bytes": CONTENT, "path": None}},
        ("Answer the question that the picture asks.\nPossible answers: 1, 2, 3, 4", "3", 1),
    ),
    "scemqa": (
        {"Question": "How high? (Final Answer is a value)", "ImagePath": "Math_Free_Response/1",
         "Answer (final answer highlighted)": "\\answer{69.5} The first quartile, \\answer{69}."},
        ("How high? (Final Answer is a value)", "69.5", 1),
    ),
    "wemath": (
        {"ID": "7", "split": "testmini", "knowledge concept": "Angles", "question": "What is the angle?",
         "option": "A. 30; B. 60", "answer": "B", "image_path": {"bytes": CONTENT, "path": None}, "key": "x"},
        ("What is the angle?\nA. 30; B. 60", "B", 1),
    ),
    "mathvista": (
        {"pid": "9", "question": "How wide?", "image": "images/9.jpg", "choices": ["2", "4"], "unit": "cm",
         "precision": 1.0, "answer": "4", "question_type": "multi_choice", "answer_type": "float", "metadata": {}},
        ("How wide? (unit: cm) (round to 1 decimal places)\n(A) 2\n(B) 4", "B", 1),
    ),
    "mathverse": (
        {"sample_index": "1", "problem_index": "1", "problem_version": "Text Only",
         "question": "Find a.\nChoices:\nA:1",
         "image": "images/1.png", "answer": "A", "question_type": "multi-choice", "metadata": {"subject": "Plane"}},
        ("Find a.\nChoices:\nA:1", "A", 0),
    ),
    "aime": ({"ID": "2024-I-1", "Problem": "Find n.", "Answer": 204, "Solution": "long"}, ("Find n.", "204", 0)),
    "math": (
        {"problem": "Half?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 1", "subject": "Algebra"},
        ("Half?", "\\frac{1}{2}", 0),
    ),
    "verl": (
        {"data_source": "a/b", "prompt": [{"role": "user", "content": "<image>Find x. Think, then answer."}],
         "images": [{"bytes": CONTENT}], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "7"},
         "extra_info": {"index": 4, "question": "<image>Find x.", "answer": "7", "split": "train"}},
        ("Find x.", "7", 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(name):
    row, expected = LAYOUTS[name]
    example = get_task("math_boxed").example(row, "f:1")
    assert (example.question, example.answer, len(example.images)) == expected
    if any(isinstance(value, dict) and value.get("bytes") for value in row.values()):
        assert example.images == (CONTENT,)


def test_gpqa_options_are_shuffled_the_same_way_every_time():
    row = {"Question": "Which gas?", "Correct Answer": "neon", "Record ID": "r1"}
    row |= {f"Incorrect Answer {i}": f"gas {i}" for i in (1, 2, 3)}
    first, again = (get_task("math_boxed").example(row, "f:1") for _ in range(2))
    assert first == again and first.meta["options"]["ABCD".index(first.answer)] == "neon"
    questions = [{**row, "Question": f"Which gas {i}?"} for i in range(12)]
    assert len({get_task("math_boxed").example(q, "f:1").answer for q in questions}) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "f:1: 1 <image> marks in the prompt but 0 pictures"),
        ({"images": [{"bytes": CONTENT}] * 2}, "1 <image> marks in the prompt but 2 pictures"),
        ({"reward_model": {"style": "rule"}}, "f:1: reward_model has no ground_truth"),
        ({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "one user turn"),
        ({"videos": [{"bytes": b"x"}]}, "f:1: 1 videos; only pictures are read"),
    ],
)
def test_verl_rows_out_of_order_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        get_task("math_boxed").example({**LAYOUTS["verl"][0], **changes}, "f:1")


@pytest.mark.parametrize(
    ("question", "num", "good"),
    [
        ("<image>a<image>b", 2, True), ("<image>a", 2, False), ("<image1>a<image2>b", 2, True),
        ("<image1>a<image1>b", 2, False), ("<image1>a<image3>b", 1, False), ("<image1><image2><image3>", 1, True),
        ("<image2>a", 1, False), ("<image>a<image1>b", 1, False), ("a", 2, True), ("<image1>a<image1>b", 1, True),
    ],
)  # fmt: skip
def test_distinct_marks_must_equal_the_pictures_unless_one_file_holds_them_all(question, num, good):
    row = {"problem": question + " x?", "answer": "4", "images": [{"bytes": CONTENT}] * num}
    if good:
        assert len(get_task("math_boxed").example(row, "f:1").images) == num
    else:
        with pytest.raises(ValueError, match=r"^f:1: .*marks.* but .* pictures"):
            get_task("math_boxed").example(row, "f:1")


def test_a_system_turn_is_kept_and_a_given_system_prompt_wins():
    prompt = [{"role": "system", "content": "Be brief."}, *LAYOUTS["verl"][0]["prompt"]]
    example = get_task("math_boxed").example({**LAYOUTS["verl"][0], "prompt": prompt}, "f:1")
    assert get_task("math_boxed").messages(example)[0] == {"role": "system", "content": "Be brief."}
    assert get_task("math_boxed").messages(example, system_prompt="Other.")[0]["content"] == "Other."


def test_rows_with_their_pictures_inside_come_back_with_files(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([LAYOUTS["geometry3k"][0]] * 2), tmp_path / "geo.parquet")
    _, made = run(tmp_path / "geo.parquet", tmp_path / "verl.parquet", split="train")
    (first, _), _ = read.rows(made)
    assert first["prompt"][0]["content"] == f"<image>Find x. {verl.PROMPT_TAIL}"
    _, back = run(made, tmp_path / "out" / "geo.jsonl")
    rows = [row for row, _ in read.rows(back)]
    assert rows[1] == {"images": ["images/1_0.png"], "problem": "<image>Find x.", "answer": "11"}
    assert (back.parent / "images/1_0.png").read_bytes() == CONTENT
    assert examples_of(back)[0].answer == "11"


def test_files_of_other_programs_become_plain_rows(tmp_path):
    row = {**LAYOUTS["verl"][0], "images": [{"bytes": CONTENT, "path": "../../escape.png"}]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "v.parquet")
    _, back = run(tmp_path / "v.parquet", tmp_path / "out" / "v.jsonl")
    ((row, _),) = read.rows(back)
    assert (row["question"], row["answer"], row["images"]) == ("<image>Find x.", "7", ["images/4_0.png"])
    assert row["data_source"] == "a/b" and not (tmp_path.parent / "escape.png").exists()


def test_scemqa_json_is_an_object_of_lists_and_its_paths_lack_a_suffix(tmp_path):
    row = LAYOUTS["scemqa"][0]
    (tmp_path / "Math_Free_Response").mkdir()
    (tmp_path / "Math_Free_Response" / "1.png").write_bytes(CONTENT)
    (tmp_path / "free_response.json").write_text(json.dumps({"Math": [row, row]}, indent=1))
    num, made = run(tmp_path / "free_response.json", tmp_path / "s.parquet")
    found = [row for row, _ in read.rows(made)]
    assert num == 2 and found[0]["images"][0]["bytes"] == CONTENT
    assert json.loads(found[0]["extra_info"]["source"])["group"] == "Math"


def test_mathvista_json_is_an_object_of_rows(tmp_path):
    row = LAYOUTS["mathvista"][0]
    path = tmp_path / "testmini.json"
    path.write_text(json.dumps({"9": row, "10": {**row, "pid": "10"}}))
    assert [(row["pid"], where) for row, where in read.rows(path)] == [("9", f"{path}:9"), ("10", f"{path}:10")]
    one_line = write_lines(tmp_path / "lines.json", [row, row])
    assert [where for _, where in read.rows(one_line)] == [f"{one_line}:1", f"{one_line}:2"]
    assert len(list(read.rows(write_lines(tmp_path / "single.json", [row])))) == 1


def test_easyr1_names_are_settings(tmp_path):
    source = write_lines(tmp_path / "q.jsonl", [{"ask": "2 + 5?", "gold": "7", "level": 3}])
    _, made = run(source, tmp_path / "q.parquet", prompt_key="ask", answer_key="gold")
    ((row, _),) = read.rows(made)
    assert row["reward_model"]["ground_truth"] == "7" and row["images"] == [] and row["data_source"] == "q"


def test_bad_rows_stop_the_command_or_are_set_aside(tmp_path, capsys):
    good = {"problem": "2 + 5?", "answer": "7"}
    rows = [good, {"problem": "<image>?", "answer": "1"}, {"problem": "<image>", "answer": "1", "images": ["no.png"]}]
    source, out = write_lines(tmp_path / "q.jsonl", rows), tmp_path / "q.parquet"
    out.write_text("an older file")
    with pytest.raises(SystemExit) as stop:
        main(["data", "convert", str(source), "--out", str(out)])
    message = capsys.readouterr().err
    assert stop.value.code == DATA and "q.jsonl:2: 1 <image> marks but 0 pictures" in message and "no.png" in message
    assert out.read_text() == "an older file"
    assert run(source, out, data_policy="quarantine")[0] == 1
    assert len((tmp_path / "q.parquet.quarantine.jsonl").read_text().splitlines()) == 2


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    source = write_lines(tmp_path / "q.jsonl", [{"problem": "x?", "answer": "1", "images": ["a.png"]}])
    with pytest.raises(Exception, match=r"q\.jsonl:1: picture a\.png is not a picture"):
        run(source, tmp_path / "q.parquet")


def test_the_prompt_tail_is_what_training_asks(tmp_path):
    from r1_mllm.tasks.templates import load_templates

    assert load_templates(PROMPTS)["math_boxed"]["open"]["r1"] == "{question}\n" + verl.PROMPT_TAIL
