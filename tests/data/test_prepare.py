# SPDX-License-Identifier: Apache-2.0
import functools
import http.server
import io
import json
import stat
import tarfile
import threading
import zipfile

import pytest

from r1_mllm import runtime
from r1_mllm.data import prepare as module
from r1_mllm.data.prepare import Source, prepare
from r1_mllm.data.synthetic import write_dataset
from r1_mllm.data.unpacking import unpack

ROW = {"image": "train2014/a.jpg", "problem": "the cat", "solution": [1, 2, 3, 4]}


def tar_of(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zip_of(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def rec_files(root="REC/"):
    rows = json.dumps([ROW]).encode()
    names = ("refcoco", "refcocop", "refcocog")
    return {root + f"rec_jsons_processed/{name}_train.json": rows for name in names} | {
        root + "train2014/a.jpg": b"picture"
    }


@pytest.mark.parametrize("root", ["REC/", ""])
def test_a_bundle_lands_where_the_script_expects_it(tmp_path, root):
    archive = tar_of(tmp_path / "REC.tar", rec_files(root))
    assert prepare("rec", archive, tmp_path / "data") == [tmp_path / "data" / "REC"]
    assert (tmp_path / "data/REC/rec_jsons_processed/refcocog_train.json").is_file()
    assert (tmp_path / "data/REC/train2014/a.jpg").read_bytes() == b"picture"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["REC"]


@pytest.mark.parametrize(
    ("kind", "name", "inside", "expected"),
    [
        ("rec", "train2014.zip", "train2014/a.jpg", "coco/train2014/a.jpg"),
        ("rec", "refgta.zip", "refgta/b.png", "refgta/b.png"),
        ("ood", "lisa-test.zip", "b.png", "lisa/b.png"),
        ("ood", "subsplit.zip", "images/b.png", "superclevr_200/images/b.png"),
        ("gui", "gui_multi-image.zip", "b.png", "gui_multi-image/b.png"),
        ("geometry", "images.zip", "images/test/0.png", "Geo170K/images/test/0.png"),
        ("counting", "subsplit.tgz", "images/c.png", "superclevr_200/images/c.png"),
        ("curriculum", "grpo_sft_data.zip", "train/a.jsonl", "curriculum/train/a.jsonl"),
    ],
)
def test_the_archive_s_name_tells_where_it_goes(tmp_path, kind, name, inside, expected):
    archive = tmp_path / name
    zip_of(archive, {inside: b"x"}) if name.endswith("zip") else tar_of(archive, {inside: b"x"}, "w:gz")
    prepare(kind, archive, tmp_path / "data")
    assert (tmp_path / "data" / expected).read_bytes() == b"x"


def test_a_counting_bundle_is_counted(tmp_path):
    pytest.importorskip("pyarrow")
    shard = write_dataset("counting", 3, tmp_path / "made", container="parquet") / "data"
    files = {f"Counting/clevr_cogen_a_train/data/{path.name}": path.read_bytes() for path in shard.iterdir()}
    archive = tar_of(tmp_path / "Counting.tar", files)
    with pytest.raises(ValueError, match=r"has 3 rows, expected 70000.*any_count"):
        prepare("counting", archive, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    assert prepare("counting", archive, tmp_path / "data", any_count=True)[0].is_dir()


def test_label_files_are_counted_and_copied(tmp_path):
    labels = tmp_path / "geoqa_test_prompts.jsonl"
    labels.write_text('{"question": "?"}\n' * 754)
    prepare("geometry", labels, tmp_path / "data")
    assert (tmp_path / "data" / "geoqa_test_prompts.jsonl").read_text() == labels.read_text()
    labels.write_text('{"question": "?"}\n' * 753)
    with pytest.raises(ValueError, match="753 rows, expected 754"):
        prepare("geometry", labels, tmp_path / "other")


def test_label_files_and_archives_of_one_name_are_told_apart(tmp_path):
    rows = tmp_path / "gui_multi-image.jsonl"
    rows.write_text(json.dumps({"image": ["a.png", "b.png"], "conversations": []}) + "\n")
    assert prepare("gui", rows, tmp_path / "data") == [tmp_path / "data/gui_multi-image.jsonl"]
    assert prepare("gui", zip_of(tmp_path / "gui_multi-image.zip", {"a.png": b""}), tmp_path / "data") == [
        tmp_path / "data/gui_multi-image"
    ]


def test_the_wrong_archive_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match=r"refcoco_train\.json is missing in it"):
        prepare("rec", tar_of(tmp_path / "REC.tar", {"REC/a.txt": b"x"}), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_what_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "data" / "REC").mkdir(parents=True)
    with pytest.raises(ValueError, match="already exists"):
        prepare("rec", tar_of(tmp_path / "REC.tar", rec_files()), tmp_path / "data")


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "a\\..\\out.txt", "C:/out.txt"])
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_names_that_leave_the_folder_are_refused(tmp_path, pack, name):
    archive = pack(tmp_path / "a.archive", {"good.txt": b"x", name: b"y"})
    with pytest.raises(ValueError, match="outside the folder"):
        unpack(archive, tmp_path / "deep" / "folder")
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["good.txt"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("thing")
        info.type, info.linkname = kind, "../secret"
        archive.addfile(info)
    with pytest.raises(ValueError, match="'thing' is a link"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_link_in_a_zip_is_refused(tmp_path):
    entry = zipfile.ZipInfo("thing")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc")
    with pytest.raises(ValueError, match="'thing' is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("pack", [zip_of, functools.partial(tar_of, mode="w:gz")])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, pack):
    archive = pack(tmp_path / "bomb", {"a": b"x", "zeros": bytes(96 << 20)})
    with pytest.raises(ValueError, match="'zeros' it unpacks to more than is sensible"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_name_that_comes_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning):
        archive.writestr("a", "1")
        archive.writestr("a", "2")
    with pytest.raises(ValueError, match="comes twice"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_archive_is_named(tmp_path):
    whole = tar_of(tmp_path / "a.tar", {"a": bytes(200_000)}, "w:gz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("cut.tgz", "text.zip"):
        with pytest.raises(ValueError, match=f"{name}: damaged"):
            unpack(tmp_path / name, tmp_path / f"out_{name}")


class Server(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/api/"):
            self.path = "/tree.json"
        start = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if not start or self.path.endswith(".zip"):
            super().do_GET()
            return
        with open(self.translate_path(self.path), "rb") as file:
            rest = file.read()[int(start) :]
        self.send_response(206)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)

    def log_message(self, *words):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Server, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_archives_are_fetched_unpacked_and_not_fetched_again(tmp_path, served, monkeypatch):
    folder, address = served
    tar_of(folder / "REC.tar", rec_files())
    monkeypatch.setitem(module.SOURCES, "rec", (Source(f"{address}/REC.tar", "REC", module._REC_ROWS),))
    assert prepare("rec", out=tmp_path / "data") == [tmp_path / "data" / "REC"]
    assert not list((tmp_path / "data" / ".downloads").iterdir())
    (folder / "REC.tar").unlink()
    assert prepare("rec", out=tmp_path / "data") == [tmp_path / "data" / "REC"]


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])  # the server above ignores Range for .zip, as some do
def test_an_interrupted_download_is_continued(tmp_path, served, name):
    folder, address = served
    (folder / name).write_bytes(b"0123456789")
    (tmp_path / f"{name}.part").write_bytes(b"0123")
    module._download(f"{address}/{name}", tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"0123456789" and not (tmp_path / f"{name}.part").exists()


def test_a_repository_is_fetched_file_by_file(tmp_path, served):
    folder, address = served
    files = {"train/a.jsonl": b"{}\n", "images/x y.png": b"p"}
    for name, content in files.items():
        path = folder / "datasets" / "some" / "set" / "resolve" / "main" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    listed = [{"type": "file", "path": name} for name in files] + [{"type": "directory", "path": "train"}]
    (folder / "tree.json").write_text(json.dumps(listed))
    target = module._install_repo(Source("some/set", "curriculum", is_repo=True), tmp_path / "data", hub=address)
    assert {name: (target / name).read_bytes() for name in files} == files


def test_a_repository_cannot_name_files_outside(tmp_path, served):
    folder, address = served
    (folder / "tree.json").write_text(json.dumps([{"type": "file", "path": "../evil"}]))
    with pytest.raises(ValueError, match="leaves the folder"):
        module._install_repo(Source("some/set", "curriculum", is_repo=True), tmp_path / "data", hub=address)


def test_without_a_network_the_addresses_and_the_way_out_are_printed(tmp_path, monkeypatch, capsys):
    parts = tuple(Source(f"http://127.0.0.1:9/{name}", target) for name, target in (("REC.tar", "REC"), ("b.zip", "b")))
    monkeypatch.setitem(module.SOURCES, "rec", parts)
    with pytest.raises(runtime.Stop) as caught:
        module.main(["rec", "--out", str(tmp_path / "data")])
    text = str(caught.value)
    assert "http://127.0.0.1:9/REC.tar" in text and "http://127.0.0.1:9/b.zip" in text
    assert "r1-mllm data prepare rec --from ARCHIVE" in text


def test_the_command_prints_what_is_in_place(tmp_path, capsys):
    module.main(["rec", "--from", str(tar_of(tmp_path / "x.tar", rec_files())), "--out", str(tmp_path / "data")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "data" / "REC")


def test_every_published_part_is_listed():
    text = "\n".join(module.addresses(kind) for kind in module.SOURCES)
    for name in ("REC.tar", "Counting.tar", "GEO.tar", "train2014.zip", "refgta.zip", "rec_jsons_processed.zip"):
        assert name in text
    for name in ("subsplit.tgz", "images.zip", "geoqa_test_prompts.jsonl", "ZTE-AIM/Curr-ReFT-data"):
        assert name in text


def test_an_unknown_kind_or_archive_is_named(tmp_path):
    with pytest.raises(ValueError, match="'rex'"):
        prepare("rex")
    with pytest.raises(ValueError, match="no such archive"):
        prepare("rec", tmp_path / "REC.tar")


def test_single_tables_are_found_in_archives_or_copied_and_counted(tmp_path):
    pytest.importorskip("pyarrow")
    shard = write_dataset("spatial", 3, tmp_path / "made", container="parquet") / "data/train-00000-of-00001.parquet"
    files = {f"x/{name}.parquet": shard.read_bytes() for name in ("SAT_train", "SAT_val")}
    prepare("sat", tar_of(tmp_path / "SAT_train.tar", files), tmp_path / "data")
    assert (tmp_path / "data/SAT/SAT_train.parquet").read_bytes() == shard.read_bytes()
    table = tmp_path / "test_2d.parquet"
    table.write_bytes(shard.read_bytes())
    with pytest.raises(ValueError, match="3 rows, expected 1438"):
        prepare("sat", table, tmp_path / "data")
    prepare("sat", table, tmp_path / "data", any_count=True)
    assert (tmp_path / "data/CV-Bench/test_2d.parquet").is_file()
    with pytest.raises(ValueError, match=r"holds 2 files that could be test_3d\.parquet"):
        prepare("sat", tar_of(tmp_path / "test_3d.tar", files), tmp_path / "data")
    assert not list((tmp_path / "data").glob(".partial*"))
