# SPDX-License-Identifier: Apache-2.0
import json

from r1_mllm.evaluation.partial import PartialResults, fingerprint, finished_with

ROWS = [{"id": i, "model_output": f"line\u2028separator {i}"} for i in range(3)]


def test_rows_of_the_same_run_come_back_in_order(tmp_path):
    first = PartialResults(tmp_path / "r.json", "key")
    first.add(ROWS[:2])
    first.add(ROWS[2:])
    assert PartialResults(tmp_path / "r.json", "key").rows == ROWS


def test_rows_of_other_arguments_are_dropped(tmp_path):
    PartialResults(tmp_path / "r.json", "key").add(ROWS)
    assert PartialResults(tmp_path / "r.json", "other").rows == []


def test_restart_drops_every_row(tmp_path):
    PartialResults(tmp_path / "r.json", "key").add(ROWS)
    assert PartialResults(tmp_path / "r.json", "key", restart=True).rows == []


def test_a_line_cut_by_a_kill_is_answered_again(tmp_path):
    partial = PartialResults(tmp_path / "r.json", "key")
    partial.add(ROWS)
    content = partial.path.read_bytes()
    partial.path.write_bytes(content[:-9])
    again = PartialResults(tmp_path / "r.json", "key")
    assert again.rows == ROWS[:2]
    again.add(ROWS[2:])
    assert PartialResults(tmp_path / "r.json", "key").rows == ROWS


def test_a_name_with_dots_keeps_them(tmp_path):
    path = PartialResults(tmp_path / "rec_results_a_qwen2.5-vl_r1_100.json", "key").path
    assert path.name == "rec_results_a_qwen2.5-vl_r1_100.partial.jsonl"


def test_the_fingerprint_follows_settings_data_and_weights(tmp_path):
    data, weights = tmp_path / "d.json", tmp_path / "w.safetensors"
    data.write_text("[1]")
    weights.write_bytes(b"12")
    key = fingerprint({"seed": 1}, [data], [weights])
    assert key == fingerprint({"seed": 1}, [data], [weights])
    assert key != fingerprint({"seed": 2}, [data], [weights])
    weights.write_bytes(b"123")
    changed = fingerprint({"seed": 1}, [data], [weights])
    assert changed != key
    data.write_text("[2]")
    assert fingerprint({"seed": 1}, [data], [weights]) != changed


def test_only_a_results_file_of_the_same_run_counts_as_finished(tmp_path):
    path = tmp_path / "r.json"
    assert finished_with(path, "key") is None
    path.write_text("{half")
    assert finished_with(path, "key") is None
    path.write_text(json.dumps({"fingerprint": "key", "results": []}))
    assert finished_with(path, "other") is None
    assert finished_with(path, "key") == {"fingerprint": "key", "results": []}
