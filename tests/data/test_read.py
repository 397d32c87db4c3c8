# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from r1_mllm.data import read


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def places(path, **options):
    return [(row, where.rsplit(":", 1)[1]) for row, where in read.rows(path, **options)]


def test_a_json_list_tells_the_line_of_every_row(tmp_path):
    path = write(tmp_path / "a.json", '[\n {"a": 1}, {"a": "x\\n"},\n\n {"a": 3}\n]\n')
    assert places(path) == [({"a": 1}, "2"), ({"a": "x\n"}, "2 (row 2)"), ({"a": 3}, "4")]


def test_rows_of_one_line_are_told_apart(tmp_path):
    path = write(tmp_path / "a.json", '[{"a": 1}, {"a": 2},\n {"a": 3}, {"a": 4}]')
    assert [place for _, place in places(path)] == ["1", "1 (row 2)", "2", "2 (row 4)"]


def test_an_empty_json_list_has_no_rows(tmp_path):
    assert places(write(tmp_path / "a.json", " [ ]\n")) == []


def test_json_lines_keep_u2028_inside_a_row_and_skip_blank_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", '\ufeff{"q": "one\u2028two"}\r\n\n{"q": "three"}')
    assert places(path) == [({"q": "one\u2028two"}, "1"), ({"q": "three"}, "3")]


def test_json_lines_in_a_file_called_json_are_read(tmp_path):
    assert places(write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n')) == [({"a": 1}, "1"), ({"a": 2}, "2")]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"a": 1', "not valid JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ("[1, 2]", "object"),
        ('"text"', "object"),
        ('{"a": 1} {"b": 2}', "surplus"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"a": ' + "[" * 100_000, "nested|JSON"),
    ],
)
def test_a_bad_line_is_an_error_with_file_and_line(tmp_path, line, word):
    path = write(tmp_path / "a.jsonl", '{"a": 0}\n' + line + '\n{"a": 9}\n')
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*({word})"):
        list(read.rows(path))
    bad = []
    good = [row for row, _ in read.rows(path, on_bad=lambda where, message: bad.append(where))]
    assert good == [{"a": 0}, {"a": 9}] and bad == [f"{path}:2"]


def test_latin_1_is_not_taken_for_text(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not UTF-8"):
        list(read.rows(path))


@pytest.mark.parametrize(
    ("content", "line"),
    [('[{"a": 1},\n{"a": 2}\n{"a": 3}]', 3), ('[{"a": 1},\n{"a": ]', 2), ('[{"a": 1},\n', 2), ('[\n{"a": 1},\n7]', 3)],
)
def test_a_broken_json_list_names_the_line(tmp_path, content, line):
    with pytest.raises(ValueError, match=rf"a\.json:{line}: "):
        list(read.rows(write(tmp_path / "a.json", content)))


def test_text_after_a_json_list_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="surplus"):
        list(read.rows(write(tmp_path / "a.json", '[{"a": 1}] []')))


def table(rows):
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow, pyarrow.Table.from_pylist(rows)


def write_parquet(path, rows):
    _, content = table(rows)
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(content, path)
    return path


def write_saved(folder, shards):
    """What `save_to_disk` leaves: Arrow streams and a state file."""
    folder.mkdir(parents=True)
    names = []
    for number, rows in enumerate(shards):
        pyarrow, content = table(rows)
        names.append(f"data-{number:05d}-of-{len(shards):05d}.arrow")
        with pyarrow.OSFile(str(folder / names[-1]), "wb") as file, pyarrow.ipc.new_stream(file, content.schema) as out:
            out.write_table(content)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def picture_row(number):
    return {
        "image": {"bytes": bytes([number]), "path": f"{number}.png"},
        "problem": "how many?",
        "solution": f"{number}",
    }


def test_parquet_rows_keep_picture_structs_and_row_numbers(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [picture_row(n) for n in range(100)])
    found = places(path)
    assert found[99] == (picture_row(99), "100") and len(found) == read.num_rows(path) == 100


def test_parquet_shards_are_read_in_order_by_split(tmp_path):
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [picture_row(2)])
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [picture_row(1)])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [picture_row(3)])
    assert [row["solution"] for row, _ in read.rows(tmp_path, "train")] == ["1", "2"]
    assert [row["solution"] for row, _ in read.rows(tmp_path, "test")] == ["3"]
    assert read.splits(tmp_path) == ["test", "train"] and read.num_rows(tmp_path, "train") == 2
    with pytest.raises(ValueError, match=r"no split 'dev'.* test, train"):
        list(read.rows(tmp_path, "dev"))
    with pytest.raises(ValueError, match="name a split"):
        list(read.rows(tmp_path))


def test_splits_may_be_folders_and_one_unnamed_part_is_train(tmp_path):
    write_parquet(tmp_path / "a" / "train" / "0000.parquet", [picture_row(1)])
    write_parquet(tmp_path / "a" / "validation" / "0000.parquet", [picture_row(2)])
    assert read.splits(tmp_path / "a") == ["train", "validation"]
    write(tmp_path / "b" / "problems.jsonl", '{"a": 1}\n')
    assert read.splits(tmp_path / "b") == ["train"] and places(tmp_path / "b") == [({"a": 1}, "1")]


def test_saved_data_sets_are_read_with_and_without_splits(tmp_path):
    alone = write_saved(tmp_path / "alone", [[picture_row(1)], [picture_row(2), picture_row(3)]])
    assert [row["solution"] for row, _ in read.rows(alone)] == ["1", "2", "3"] and read.num_rows(alone) == 3
    parts = tmp_path / "parts"
    write_saved(parts / "train", [[picture_row(4)]])
    write_saved(parts / "test", [[picture_row(5)]])
    (parts / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [row["image"]["bytes"] for row, _ in read.rows(parts, "test")] == [b"\x05"]


def test_a_missing_shard_is_named(tmp_path):
    folder = write_saved(tmp_path / "alone", [[picture_row(1)], [picture_row(2)]])
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match="data-00001-of-00002"):
        list(read.rows(folder))


def test_damaged_tables_name_the_file(tmp_path):
    pytest.importorskip("pyarrow")
    path = write_parquet(tmp_path / "a.parquet", [picture_row(n) for n in range(5)])
    for broken in (b"no parquet", path.read_bytes()[:-30]):
        with pytest.raises(ValueError, match=r"b\.parquet"):
            list(read.rows(write(tmp_path / "b.parquet", broken)))
    with pytest.raises(ValueError, match=r"c\.arrow"):
        list(read.rows(write(tmp_path / "c.arrow", b"no arrow stream")))


def test_what_is_no_data_set_is_said(tmp_path):
    with pytest.raises(ValueError, match="no such data set"):
        list(read.rows(tmp_path / "nothing.json"))
    with pytest.raises(ValueError, match="not a data set"):
        list(read.rows(write(tmp_path / "a.csv", "a,b")))
    with pytest.raises(ValueError, match="holds no"):
        list(read.rows(tmp_path / "empty", "train") if (tmp_path / "empty").mkdir() is None else [])
