# SPDX-License-Identifier: Apache-2.0
"""Fetch the data sets that the scripts train and evaluate on, and put them where the scripts expect them."""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import runtime
from . import read
from .unpacking import unpack

log = logging.getLogger(__name__)

BUNDLES = "https://paddlenlp.bj.bcebos.com/datasets/paddlemix"
HUB = "https://huggingface.co"
LABELS = "https://raw.githubusercontent.com/Deep-Agent/R1-V/main/src/eval/prompts"
TIMEOUT_SECONDS = 60
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One thing to download and where it goes."""

    url: str
    """An archive, a single file, or with is_repo the name of a data-set repository on the hub."""
    target: str
    """Folder (or file) below `out`."""
    counts: tuple[tuple[str, int | None], ...] = ()
    """(file or folder below target, rows it must have; None: at least one)."""
    is_repo: bool = False
    also: tuple[str, ...] = ()
    """Other file names the same content is known under."""

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def address(self) -> str:
        return f"{HUB}/datasets/{self.url}" if self.is_repo else self.url


_RESOLVED = f"{HUB}/datasets/omlab/VLM-R1/resolve/main"
_REC_ROWS = tuple((f"rec_jsons_processed/{name}_train.json", None) for name in ("refcoco", "refcocop", "refcocog"))
_REC_LABELS = tuple((f"{name}.json", None) for name in ("refcoco_val", "refcocop_val", "refcocog_val"))
_REC_LABELS_ZIP = Source(f"{_RESOLVED}/rec_jsons_processed.zip", "rec_jsons_processed", _REC_LABELS)
_REFGTA = Source(f"{_RESOLVED}/refgta.zip", "refgta")
_SUPERCLEVR = (
    Source(f"{HUB}/datasets/tobiaslee/Super_clevr200/resolve/main/subsplit.tgz", "superclevr_200"),
    Source(
        f"{LABELS}/superclevr_test200_counting_problems.jsonl",
        "superclevr_test200_counting_problems.jsonl",
        (("", 200),),
    ),
)
_GUI_ROWS = "https://raw.githubusercontent.com/om-ai-lab/VLM-R1/main/src/open-r1-multimodal/data_jsonl"
_SCEMQA = "https://github.com/SceMQA/SceMQA"
SOURCES: dict[str, tuple[Source, ...]] = {
    "rec": (
        Source(f"{BUNDLES}/playground/r1_mllm/REC.tar", "REC", _REC_ROWS),
        _REC_LABELS_ZIP,
        Source(f"{_RESOLVED}/train2014.zip", "coco", also=("train2014.tar",)),
        _REFGTA,
    ),
    "counting": (
        Source(f"{BUNDLES}/playground/r1_mllm/Counting.tar", "Counting", (("clevr_cogen_a_train", 70_000),)),
        *_SUPERCLEVR,
    ),
    "geometry": (
        Source(f"{BUNDLES}/playground/r1_mllm/GEO.tar", "GEO", (("GEOQA_R1V_Train_8K", None),)),
        Source(f"{HUB}/datasets/Luckyjhg/Geo170K/resolve/main/images.zip", "Geo170K"),
        Source(f"{LABELS}/geoqa_test_prompts.jsonl", "geoqa_test_prompts.jsonl", (("", 754),)),
    ),
    "sat": (
        Source(f"{HUB}/datasets/array/SAT/resolve/main/SAT_train.parquet", "SAT/SAT_train.parquet", (("", None),)),
        Source(
            f"{HUB}/datasets/nyu-visionx/CV-Bench/resolve/main/test_2d.parquet",
            "CV-Bench/test_2d.parquet",
            (("", 1438),),
        ),
        Source(
            f"{HUB}/datasets/nyu-visionx/CV-Bench/resolve/main/test_3d.parquet",
            "CV-Bench/test_3d.parquet",
            (("", 1200),),
        ),
    ),
    "ood": (_REC_LABELS_ZIP, _REFGTA, Source(f"{_RESOLVED}/lisa-test.zip", "lisa"), *_SUPERCLEVR),
    "gui": (
        Source(f"{_GUI_ROWS}/gui_multi-image.jsonl", "gui_multi-image.jsonl", (("", None),)),
        Source(f"{_RESOLVED}/gui_multi-image.zip", "gui_multi-image"),
    ),
    "math": (
        Source("hiyouga/geometry3k", "geometry3k", is_repo=True),
        Source("MathLLMs/MathVision", "mathvision", is_repo=True),
        Source("him1411/polymath", "polymath", is_repo=True),
        Source(f"{_SCEMQA}/archive/refs/heads/main.zip", "SceMQA-main", also=("SceMQA-main.zip",)),
        Source("We-Math/We-Math", "wemath", is_repo=True),
    ),
    "curriculum": (Source("ZTE-AIM/Curr-ReFT-data", "curriculum", is_repo=True, also=("grpo_sft_data.zip",)),),
}


def prepare(
    kind: str, from_archive: str | Path | None = None, out: str | Path = "data", any_count: bool = False
) -> list[Path]:
    """Fetch and unpack the data sets of a kind; return the folders and files that are in place afterwards.

    What is already there stays.  Every folder appears complete or not at all.

    Args:
        kind: rec, counting, geometry, sat, ood, gui, math or curriculum.
        from_archive: a local archive or label file instead of the network; its name says which of the kind's parts it
            is (REC.tar, train2014.zip, refgta.zip ...), any other name stands for the first one, the bundle.
        any_count: accept other numbers of rows than the published ones, for subsets.
    """
    if kind not in SOURCES:
        raise ValueError(f"nothing known to prepare for {kind!r}; choose from {', '.join(SOURCES)}")
    out = Path(out)
    if from_archive is not None:
        archive = Path(from_archive)
        if not archive.is_file():
            raise ValueError(f"{archive}: no such archive")
        return [_install(archive, _source_of(kind, archive.name), out, any_count)]
    return [_fetched(source, out, kind, any_count) for source in SOURCES[kind]]


def main(argv: Sequence[str]) -> None:
    """Run `r1-mllm data prepare KIND [--from ARCHIVE] [--out DIR] [--any_count]` and print what is in place."""
    parser = argparse.ArgumentParser(
        "r1-mllm data prepare", description="Fetch or unpack the data sets scripts expect."
    )
    parser.add_argument("kind", choices=list(SOURCES), help="task or group of data sets")
    parser.add_argument("--from", dest="archive", help="local archive or label file instead of the network")
    parser.add_argument("--out", default="data", help="folder to put them in; default: data")
    parser.add_argument("--any_count", action="store_true", help="accept a subset of the published rows")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for path in prepare(given.kind, given.archive, given.out, given.any_count):
            print(path)
    except (ConnectionError, ValueError) as error:
        raise runtime.Stop(str(error), runtime.DATA) from error


def addresses(kind: str, out: str | Path = "data") -> str:
    """Say where each part of a kind can be fetched by hand and how to hand it over."""
    lines = [f"  {source.address}  ->  {Path(out) / source.target}" for source in SOURCES[kind]]
    how = f"Fetch them on a machine with a network, then: r1-mllm data prepare {kind} --from ARCHIVE"
    return "\n".join([f"Data sets for {kind}:", *lines, how])


def _source_of(kind: str, name: str) -> Source:
    stem = name.split(".")[0].lower()
    for source in sorted(SOURCES[kind], key=lambda source: source.file_name != name):
        if stem in {known.split(".")[0].lower() for known in (source.file_name, *source.also)}:
            return source
    return SOURCES[kind][0]


def _fetched(source: Source, out: Path, kind: str, any_count: bool) -> Path:
    if (out / source.target).exists():
        log.info("%s is already there", out / source.target)
        return out / source.target
    try:
        if source.is_repo:
            return _install_repo(source, out)
        download = out / ".downloads" / source.file_name
        _download(source.url, download)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"cannot fetch {source.address} ({error})\n{addresses(kind, out)}") from error
    target = _install(download, source, out, any_count)
    download.unlink()
    return target


def _download(url: str, path: Path) -> None:
    """Fetch a file; what an interrupted attempt left is continued."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    log.info("fetching %s", url)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        expected = int(response.headers.get("Content-Length") or -1)
        with part.open("ab" if resumed else "wb") as file:
            before = file.tell()
            shutil.copyfileobj(response, file, BLOCK_BYTES)
            received = file.tell() - before
    if expected not in (-1, received):
        raise ConnectionError(f"received {received} of {expected} bytes; run the command again to continue")
    os.replace(part, path)


def _install(archive: Path, source: Source, out: Path, any_count: bool) -> Path:
    """Unpack beside the target, check, and move into place."""
    target = out / source.target
    if target.exists():
        raise ValueError(f"{target} already exists; move it away to unpack {archive} again")
    staging = out / f".partial-{target.name}"
    _remove(staging)
    out.mkdir(parents=True, exist_ok=True)
    try:
        if archive.suffix == target.suffix and target.suffix in (".jsonl", ".parquet"):
            shutil.copyfile(archive, staging)
            content = staging
        else:
            unpack(archive, staging)
            content = _found_in(staging, target, archive) if target.suffix else _lifted(staging, target.name)
        _check_counts(content, source, any_count, archive)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(content, target)
    finally:
        _remove(staging)
    log.info("%s is ready", target)
    return target


def _lifted(staging: Path, name: str) -> Path:
    """The unpacked content: the archive's only folder when it is named like the target, else everything."""
    entries = [entry for entry in staging.iterdir() if entry.name != "__MACOSX"]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() and entries[0].name == name else staging


def _found_in(staging: Path, target: Path, archive: Path) -> Path:
    """The one file of an unpacked archive that the target names; any other file of its kind when there is just one."""
    files = [path for path in sorted(staging.rglob(f"*{target.suffix}")) if "__MACOSX" not in path.parts]
    named = [path for path in files if path.name == target.name] or files
    if len(named) != 1:
        raise ValueError(f"{archive}: holds {len(named)} files that could be {target.name}; it must hold exactly one")
    return named[0]


def _check_counts(content: Path, source: Source, any_count: bool, archive: Path) -> None:
    for name, expected in source.counts:
        place = content / name if name else content
        if not place.exists():
            raise ValueError(f"{archive}: {name} is missing in it; is it the right archive for {source.target}?")
        found = sum(read.num_rows(place, split) for split in read.splits(place) or [None])
        if found == 0 or (expected not in (None, found) and not any_count):
            raise ValueError(
                f"{archive}: {name or source.target} has {found} rows, expected {expected or 'some'}; "
                "--any_count accepts a subset"
            )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# repositories --------------------------------------------------------------------------------------------------------


def _install_repo(source: Source, out: Path, hub: str = HUB) -> Path:
    """Fetch every file of a data-set repository, then move the folder into place."""
    target, staging = out / source.target, out / f".partial-{source.target}"
    for name in _repo_files(source.url, hub):
        path = staging / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"{source.address}: file name {name!r} leaves the folder; refused")
        if not path.exists():
            _download(f"{hub}/datasets/{source.url}/resolve/main/{urllib.parse.quote(name)}", path)
    os.replace(staging, target)
    return target


def _repo_files(name: str, hub: str) -> Iterator[str]:
    url: str | None = f"{hub}/api/datasets/{name}/tree/main?recursive=true"
    while url:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            listed = json.load(response)
            link = response.headers.get("Link") or ""
        yield from (entry["path"] for entry in listed if entry["type"] == "file")
        url = link.split(";")[0].strip("<> ") if 'rel="next"' in link else None
