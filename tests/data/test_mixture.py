# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r1_mllm.config import DataConfig
from r1_mllm.data.mixture import load_examples, num_shared, parse_strategy
from r1_mllm.data.mixture.embedded import EmbeddedPictures
from r1_mllm.data.synthetic import write_dataset, write_splits

MATHVISION = Path(__file__).parents[1] / "data_files" / "mathvision"
FORMATS = Path(__file__).parents[1] / "data_files" / "formats"


def picture(path, content="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path, content)


def counting_file(folder, num, name="a.jsonl", images=True):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"image_path": f"./images/{n}.png", "question": f"How many? ({n})", "ground_truth": n} for n in range(num)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for n in range(num if images else 0):
        picture(folder / "images" / f"{n}.png")
    return folder / name


def mixture(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(path, split="train", quarantine_file="unused", **settings):
    settings = {"task": "counting", **settings}
    return load_examples(DataConfig(dataset_name=str(path), **settings), split, quarantine_file)


def answers(path, **settings):
    return [example.answer for example in load(path, **settings)[0]]


def test_a_plain_file_becomes_examples_with_pictures_joined(tmp_path):
    path = counting_file(tmp_path, 3)
    examples, report = load(path)
    assert [example.answer for example in examples] == [0, 1, 2]
    assert examples[1].images == (str(tmp_path / "images" / "1.png"),)
    assert examples[1].meta["where"] == f"{path}:2"
    assert (report.datasets[0].num_rows, report.datasets[0].num_kept) == (3, 3) and not report.warnings


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", range(10)),
        ("first:3", [0, 1, 2]),
        ("end:3", [7, 8, 9]),
        ("first:25%", [0, 1, 2]),
        ("end:11%", [8, 9]),
        ("first:99", range(10)),
    ],
)
def test_strategies_take_the_rows_they_name(strategy, expected):
    chosen, _ = parse_strategy(strategy)(10, np.random.default_rng(0))
    assert chosen.tolist() == list(expected)


@pytest.mark.parametrize(
    "strategy", ["frist:3", "first", "first:", "first:x", "first:0", "end:120%", "all:3", "end:-2"]
)
def test_unknown_strategies_are_errors(strategy):
    with pytest.raises(ValueError, match="sampling_strategy"):
        parse_strategy(strategy)


def test_random_is_seeded_and_a_true_draw(tmp_path):
    counting_file(tmp_path, 30)
    path = mixture(tmp_path / "m.yaml", "datasets:\n  - json_path: a.jsonl\n    sampling_strategy: random:10\n")
    drawn = answers(path, data_seed=1)
    assert drawn == answers(path, data_seed=1) != answers(path, data_seed=2)
    assert len(set(drawn)) == 10 and drawn != list(range(10))


def test_asking_for_more_rows_than_there_are_warns(tmp_path):
    counting_file(tmp_path, 3)
    path = mixture(tmp_path / "m.yaml", "datasets:\n  - {json_path: a.jsonl, sampling_strategy: 'first:5'}\n")
    assert "5 rows, there are only 3" in load(path)[1].warnings[0]


def test_paths_are_relative_to_the_mixture_then_to_the_working_directory(tmp_path, monkeypatch):
    counting_file(tmp_path / "work" / "data", 2)
    counting_file(tmp_path / "conf", 3, "b.jsonl")
    path = mixture(tmp_path / "conf" / "m.yaml", "datasets:\n  - json_path: data/a.jsonl\n  - json_path: b.jsonl\n")
    monkeypatch.chdir(tmp_path / "work")
    assert answers(path) == [0, 1, 0, 1, 2]


def test_train_and_val_data_sets_are_kept_apart(tmp_path):
    counting_file(tmp_path, 4)
    counting_file(tmp_path, 2, "v.jsonl")
    path = mixture(
        tmp_path / "m.yaml", "train_datasets:\n  - json_path: a.jsonl\nval_datasets:\n  - json_path: v.jsonl\n"
    )
    assert len(load(path)[0]) == 4 and len(load(path, "test")[0]) == 2


def test_without_evaluation_data_there_is_an_empty_list_and_a_warning(tmp_path):
    path = mixture(tmp_path / "m.yaml", "datasets:\n  - json_path: a.jsonl\n")
    counting_file(tmp_path, 2)
    for name in (path, tmp_path / "a.jsonl"):
        examples, report = load(name, "test")
        assert examples == [] and "no evaluation data" in report.warnings[0]
    assert len(load(path, "test", eval_dataset_name=str(path))[0]) == 2


def test_files_and_their_folders_may_be_listed_with_colons(tmp_path):
    one, two = counting_file(tmp_path / "a", 2), counting_file(tmp_path / "b", 3)
    examples, report = load(f"{one}:{two}", image_root=f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert [example.answer for example in examples] == [0, 1, 0, 1, 2] and len(report.datasets) == 2
    assert examples[1].images[0].startswith(str(tmp_path / "a")) and str(tmp_path / "b") in examples[4].images[0]
    with pytest.raises(ValueError, match="3 folders for 2 files"):
        load(f"{one}:{two}", image_root="x:y:z")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("dataset:\n  - json_path: a.jsonl\n", "did you mean 'datasets'"),
        ("datasets:\n  - json_pth: a.jsonl\n", "entry 1 has no json_path"),
        ("datasets:\n  - {json_path: a.jsonl, sampling: first:3}\n", "did you mean 'sampling_strategy'"),
        ("datasets:\n  - {json_path: a.jsonl, sampling_strategy: some:3}\n", "entry 1: unknown sampling_strategy"),
        ("datasets: a.jsonl\n", "must be a list"),
        ("- a\n", "needs the key"),
        ("datasets: [\n", "not valid YAML"),
        ("datasets:\n  - {json_path: a.jsonl, task: recc}\n", "unknown task 'recc'"),
    ],
)
def test_faults_of_a_mixture_are_named(tmp_path, text, word):
    counting_file(tmp_path, 2)
    with pytest.raises(ValueError, match=word):
        load(mixture(tmp_path / "m.yaml", text))


def test_a_file_listed_twice_is_warned_of(tmp_path):
    counting_file(tmp_path, 2)
    path = mixture(tmp_path / "m.yaml", "datasets:\n  - json_path: a.jsonl\n  - json_path: ./a.jsonl\n")
    examples, report = load(path)
    assert len(examples) == 4 and "more than once" in report.warnings[0]


def test_a_missing_default_names_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = Path(__file__).parents[2] / "configs"
    for name, kind in (("rec.yaml", "rec"), ("data/counting.yaml", "counting"), ("data/geometry.yaml", "geometry")):
        with pytest.raises(ValueError, match=f"r1-mllm data prepare {kind}"):
            load(configs / name)
    with pytest.raises(ValueError, match="no such data set"):
        load("other/set")


def test_missing_pictures_stop_the_run_and_are_listed(tmp_path):
    path = counting_file(tmp_path, 25, images=False)
    picture(tmp_path / "images" / "3.png")
    with pytest.raises(ValueError) as caught:
        load(path)
    text = str(caught.value)
    assert "24 problems" in text and f"{path}: 24 missing" in text and "and 4 more" in text
    assert f"{path}:1: image " in text and f"{path}:4:" not in text and text.count("is missing") == 20


def test_quarantine_removes_counts_and_writes_them(tmp_path):
    path = counting_file(tmp_path, 3)
    (tmp_path / "images" / "1.png").unlink()
    with path.open("a") as file:
        file.write('{"broken\n{"question": "How many?", "ground_truth": "many", "image_path": "images/0.png"}\n')
    kept, report = load(
        path, data_policy="quarantine", max_bad="60%", quarantine_file=tmp_path / "out/quarantine.jsonl"
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [example.answer for example in kept] == [0, 2]
    assert sorted((line["where"].rsplit(":", 1)[1], line["field"]) for line in lines) == [
        ("2", "image"),
        ("4", "row"),
        ("5", "row"),
    ]
    assert report.datasets[0].num_rows == 5 and "3 rows set aside" in report.warnings[0]


def test_more_bad_rows_than_max_bad_allows_are_an_error_that_names_them(tmp_path):
    path = counting_file(tmp_path, 300, images=False)
    for number in range(297):
        picture(tmp_path / "images" / f"{number}.png")
    assert len(load(path, data_policy="quarantine", quarantine_file=None)[0]) == 297  # 3 of 300 are 1%
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"4 of 300 rows are bad, --max_bad 1% allows 3: .*--max_bad 4") as caught:
        load(path, data_policy="quarantine", quarantine_file=None)
    assert f"{path}:1: image " in str(caught.value)
    assert len(load(path, data_policy="quarantine", max_bad="4", quarantine_file=None)[0]) == 296
    for wrong in ("101%", "some", "-1", "0.5"):
        with pytest.raises(ValueError, match=f"max_bad '{wrong}'"):
            DataConfig(max_bad=wrong)


@pytest.mark.parametrize("policy", ["strict", "quarantine"])
def test_nothing_left_is_an_error(tmp_path, policy):
    path = counting_file(tmp_path, 2, images=False)
    with pytest.raises(ValueError, match=r"no example left|2 problems"):
        load(path, data_policy=policy, quarantine_file=tmp_path / "q.jsonl")


def outside_forms(tmp_path):
    picture(tmp_path / "secret.png")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    picture(root / "in.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    return root, [
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "folder/secret.png",
        "sub/../../secret.png",
    ]


def one_row(tmp_path, image):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"image": image, "problem": "How many?", "solution": "<answer> 1 </answer>"}) + "\n")
    return path


def test_paths_that_leave_the_image_root_are_refused_unless_allowed(tmp_path):
    root, forms = outside_forms(tmp_path)
    for image in forms:
        path = one_row(tmp_path, image)
        with pytest.raises(ValueError, match="leaves the image root"):
            load(path, image_root=str(root))
        assert len(load(path, image_root=str(root), allow_outside_image_root=True)[0]) == 1


def test_links_that_stay_inside_are_fine_and_other_things_than_files_are_not(tmp_path):
    root, _ = outside_forms(tmp_path)
    (root / "good.png").symlink_to(root / "in.png")
    os.mkfifo(root / "pipe.png")
    assert len(load(one_row(tmp_path, "good.png"), image_root=str(root))[0]) == 1
    for image, word in (("pipe.png", "not a regular file"), ("sub", "not a regular file"), ("a\0b.png", "not a path")):
        with pytest.raises(ValueError, match=word):
            load(one_row(tmp_path, image), image_root=str(root))


def test_rows_of_text_only_are_examples(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"problem": "How many legs has a spider?", "solution": "8"}\n')
    assert load(path)[0][0].images == ()


def test_the_task_may_come_from_entry_setting_or_row(tmp_path):
    rows = [
        {"problem": "Find it.", "solution": [1, 2, 30, 20], "image": "images/0.png", "task": "rec"},
        {"problem": "How many?", "solution": "3", "task": "count"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture(tmp_path / "images" / "0.png")
    assert [example.task for example in load(tmp_path / "a.jsonl", task=None)[0]] == ["rec", "counting"]
    path = mixture(
        tmp_path / "m.yaml", "datasets:\n  - {json_path: a.jsonl, task: counting, sampling_strategy: end:1}\n"
    )
    assert load(path, task="rec")[0][0].task == "counting"


def test_a_row_without_any_task_says_so_and_names_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"no task: .* known: rec, counting"):
        load(counting_file(tmp_path, 1), task=None)


def test_the_real_mathvision_problems_load(tmp_path):
    examples, _ = load(MATHVISION / "problems.jsonl", task="math_boxed")
    assert len(examples) == 8 and all(len(example.images) == 1 for example in examples)
    for example in examples:
        with Image.open(example.images[0]) as opened:
            opened.load()


@pytest.mark.parametrize(
    ("name", "task", "num"),
    [("geoqa_test_prompts", "geometry", 754), ("superclevr_test200_counting_problems", "counting", 200)],
)
def test_the_published_evaluation_prompts_miss_every_picture(tmp_path, name, task, num):
    with pytest.raises(ValueError, match=rf"^{num} problems .*: {num} missing or refused pictures"):
        load(FORMATS / f"{name}.jsonl", task=task, image_root=str(tmp_path))


@pytest.mark.parametrize("container", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("task", ["rec", "counting", "geometry"])
def test_rendered_data_sets_load_in_every_container(tmp_path, task, container):
    written = write_dataset(task, 6, tmp_path, seed=1, container=container)
    examples, _ = load(written, task=task)
    assert len(examples) == 6
    source = examples[0].images[0]
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        assert opened.size == (84, 84)


def test_a_folder_gives_its_own_train_and_test_split(tmp_path):
    write_splits("counting", 5, tmp_path, num_test=3, container="parquet")
    train, held_out = load(tmp_path)[0], load(tmp_path, "test")[0]
    assert (len(train), len(held_out)) == (5, 3)
    assert num_shared(train, held_out) == 0 and num_shared(train, train[:2]) == 2


def test_sampling_from_parquet_takes_the_same_rows_as_from_json(tmp_path):
    write_dataset("counting", 12, tmp_path / "p", seed=4, container="parquet")
    write_dataset("counting", 12, tmp_path / "j", seed=4)
    taken = []
    for name in ("p", "j/train.json"):
        path = mixture(tmp_path / "m.yaml", f"datasets:\n  - {{json_path: {name}, sampling_strategy: end:5}}\n")
        taken.append(answers(path))
    assert taken[0] == taken[1] and len(taken[0]) == 5


def test_many_embedded_pictures_become_files_beside_the_data_set(tmp_path):
    store = EmbeddedPictures(tmp_path, limit_bytes=5)
    kept = store.stored({"image": {"bytes": b"12345", "path": "a.png"}})
    moved = store.stored({"images": [{"bytes": b"678", "path": "b.png"}, "c.png"], "problem": "?"})
    assert kept["image"]["bytes"] == b"12345" and moved["images"][1] == "c.png"
    assert Path(moved["images"][0]).read_bytes() == b"678"


def test_moved_pictures_are_found_although_the_image_root_is_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("r1_mllm.data.mixture.embedded.EmbeddedPictures.__init__.__defaults__", (0,))
    folder = write_dataset("counting", 3, tmp_path / "p", seed=4, container="parquet")
    (tmp_path / "elsewhere").mkdir()
    examples, _ = load(folder, image_root=str(tmp_path / "elsewhere"))
    assert all(isinstance(example.images[0], str) and Path(example.images[0]).is_file() for example in examples)
    assert len(load(folder)[0]) == 3
