# SPDX-License-Identifier: Apache-2.0
"""Rows of a data set as dicts, each with the place it came from; nothing unreadable is skipped in silence.

Read are JSON lists, JSON lines, JSON objects of rows, parquet, and folders: parquet shards, annotation files, or what
the `datasets` library writes with save_to_disk.  Embedded pictures arrive as the struct they are stored as, {"bytes":
..., "path": ...}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from . import json_tree

MAX_LINE_BYTES = 16 << 20
ROWS_PER_BATCH = 64
_ANNOTATIONS = (".json", ".jsonl")
_SHARD_NAME = re.compile(r"^(.+?)-\d{5}-of-\d{5}")
_SPLIT_NAMES = ("train", "test", "val", "validation", "dev")

Row = dict[str, Any]
OnBad = Callable[[str, str], None]
"""Told of a bad row: where it stands ("file:line") and what is wrong."""


def rows(path: str | Path, split: str | None = None, on_bad: OnBad | None = None) -> Iterator[tuple[Row, str]]:
    """Yield each row and its place "file:line" (parquet and Arrow: "file:row"), counted from 1.

    Args:
        split: which part of a folder; needed when the folder has several.  Files ignore it.
        on_bad: called for a row that cannot be read instead of raising.  A broken file always raises ValueError.
    """
    path = Path(path)
    report = on_bad or _raise
    if path.is_dir():
        for file in _split_files(path, split):
            yield from _file_rows(file, report)
    elif path.is_file():
        yield from _file_rows(path, report)
    else:
        raise ValueError(f"{path}: no such data set file or folder")


def splits(path: str | Path) -> list[str]:
    """Names of the splits of a data-set folder; empty for a file."""
    path = Path(path)
    return sorted(_folder(path)) if path.is_dir() else []


def num_rows(path: str | Path, split: str | None = None) -> int:
    """Count the rows of a file or split without decoding pictures."""
    path = Path(path)
    return sum(_file_num_rows(file) for file in (_split_files(path, split) if path.is_dir() else [path]))


def is_table(path: str | Path, split: str | None = None) -> bool:
    """Tell whether a file or split is parquet or Arrow: no row can be bad by itself, and counting is cheap."""
    path = Path(path)
    files = _split_files(path, split) if path.is_dir() else [path]
    return all(file.suffix in (".parquet", ".arrow") for file in files)


def _raise(where: str, problem: str) -> NoReturn:
    raise ValueError(f"{where}: {problem}")


def _file_rows(path: Path, report: OnBad) -> Iterator[tuple[Row, str]]:
    if path.suffix == ".parquet":
        yield from _table_rows(path, _parquet_batches(path))
    elif path.suffix == ".arrow":
        yield from _table_rows(path, _arrow_batches(path))
    elif path.suffix in _ANNOTATIONS:
        if path.suffix == ".json" and _starts_with(path, b"{") and (tree := json_tree.load(path)) is not None:
            yield from json_tree.rows(tree, path)
            return
        reader = _list_rows if _starts_with(path, b"[") and path.suffix == ".json" else _line_rows
        yield from reader(path, report)
    else:
        raise ValueError(f"{path}: not a data set; known are .json, .jsonl, .parquet, .arrow and folders of them")


def _file_num_rows(path: Path) -> int:
    if path.suffix == ".parquet":
        with _open_parquet(path) as file:
            return file.metadata.num_rows
    if path.suffix == ".arrow":
        return sum(batch.num_rows for batch in _arrow_batches(path))
    return sum(1 for _ in _file_rows(path, _raise))


# JSON ----------------------------------------------------------------------------------------------------------------


def _unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return row


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _starts_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(mark)


def _line_rows(path: Path, report: OnBad) -> Iterator[tuple[Row, str]]:
    with path.open("rb") as file:  # bytes: str.splitlines would also cut at U+2028
        for line, content in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
            where = f"{path}:{line}"
            if len(content) > MAX_LINE_BYTES:
                raise ValueError(f"{where}: the line is longer than {MAX_LINE_BYTES >> 20} MiB")
            if content.strip(b" \t\r\n\xef\xbb\xbf"):
                row = _parsed(content.removeprefix(b"\xef\xbb\xbf"), where, report)
                if row is not None:
                    yield row, where


def _parsed(content: bytes, where: str, report: OnBad) -> Row | None:
    try:
        row, end = _DECODER.raw_decode(text := content.decode("utf-8").strip())
        if text[end:]:
            raise ValueError(f"surplus text after the row: {text[end:][:40]!r}")
        return _checked(row)
    except (ValueError, RecursionError) as error:
        report(where, _cause(error))
    return None


def _checked(row: Any) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object {{...}}, not {type(row).__name__}")
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate would break every log it is written to
        raise ValueError("holds half a surrogate pair, which is not text") from error
    return row


def _cause(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start}: {error.reason})"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at column {error.colno})"
    return str(error)


def _list_rows(path: Path, report: OnBad) -> Iterator[tuple[Row, str]]:
    """Rows of a JSON list, parsed one by one so that each knows its line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {_cause(error)}") from error
    at, line = _skip_blank(text, text.index("[") + 1), 1
    counted = number = last_line = 0
    while text[at : at + 1] != "]":
        line, counted, number = line + text.count("\n", counted, at), at, number + 1
        # json.dump writes all rows into one line unless told otherwise.
        where = f"{path}:{line}" + (f" (row {number})" if line == last_line else "")
        last_line = line
        row, at = _element(text, at, where)
        try:
            yield _checked(row), where
        except ValueError as error:
            report(where, str(error))
        at = _skip_blank(text, at)
        if text[at : at + 1] == ",":
            at = _skip_blank(text, at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            raise ValueError(f"{path}:{line}: expected ',' or ']' after a row, found {text[at : at + 20]!r}")
    if text[at + 1 :].strip():
        raise ValueError(f"{path}: surplus text after the list: {text[at + 1 :].strip()[:40]!r}")


def _element(text: str, at: int, where: str) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        place = where.rsplit(":", 1)[0] + f":{error.lineno}"
        raise ValueError(f"{place}: {_cause(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {_cause(error)}") from error


_BLANK = re.compile(r"[ \t\r\n]*")


def _skip_blank(text: str, at: int) -> int:
    return _BLANK.match(text, at).end()


# parquet and Arrow ---------------------------------------------------------------------------------------------------


def _pyarrow() -> Any:
    try:
        import pyarrow  # takes a while to load, and JSON needs it not
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("parquet and Arrow files need pyarrow: pip install 'pyarrow>=15'") from error
    if int(pyarrow.__version__.split(".")[0]) < 15:
        raise ValueError(f"pyarrow {pyarrow.__version__} runs code from files (CVE-2023-47248): install 15 or newer")
    return pyarrow


def _open_parquet(path: Path) -> Any:
    pyarrow = _pyarrow()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error})") from error


def _parquet_batches(path: Path) -> Iterator[Any]:
    with _open_parquet(path) as file:
        yield from file.iter_batches(batch_size=ROWS_PER_BATCH)


def _arrow_batches(path: Path) -> Iterator[Any]:
    pyarrow = _pyarrow()
    try:
        with pyarrow.OSFile(str(path)) as file:  # not mapped: a damaged file would end the process by SIGBUS
            yield from pyarrow.ipc.open_stream(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Arrow stream ({error})") from error


def _table_rows(path: Path, batches: Iterator[Any]) -> Iterator[tuple[Row, str]]:
    num = 0
    try:
        for batch in batches:
            batch.validate(full=True)
            for row in batch.to_pylist():
                num += 1
                yield row, f"{path}:{num}"
    except (_pyarrow().ArrowException, OSError) as error:
        raise ValueError(f"{path}:{num + 1}: cannot be decoded ({error})") from error


# folders -------------------------------------------------------------------------------------------------------------


def _split_files(path: Path, split: str | None) -> list[Path]:
    found = _folder(path)
    if not found:
        raise ValueError(f"{path}: the folder holds no parquet, Arrow, .json or .jsonl data")
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        asked = "name a split" if split is None else f"no split {split!r}"
        raise ValueError(f"{path}: {asked}; the folder has {', '.join(sorted(found))}")
    return found[split]


def _folder(path: Path) -> dict[str, list[Path]]:
    """Files per split of a data-set folder, in order."""
    if (path / "dataset_dict.json").is_file():
        names = json.loads((path / "dataset_dict.json").read_text("utf-8"))["splits"]
        return {name: _saved_shards(path / name) for name in names}
    if (path / "state.json").is_file():
        return {json.loads((path / "state.json").read_text("utf-8")).get("_split") or "train": _saved_shards(path)}
    for suffixes in ((".parquet",), _ANNOTATIONS):
        files = sorted(p for p in path.rglob("*") if p.suffix in suffixes and p.is_file() and _visible(p, path))
        if files:
            return _by_split(files, path)
    return {}


def _visible(file: Path, root: Path) -> bool:
    known_not_rows = ("dataset_info.json", "dataset_infos.json")
    return file.name not in known_not_rows and not any(part.startswith(".") for part in file.relative_to(root).parts)


def _saved_shards(folder: Path) -> list[Path]:
    state = folder / "state.json"
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text("utf-8"))["_data_files"]]
    except (OSError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{state}: not the state file of a saved data set ({error!r})") from error
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: shards named by state.json are not here: {', '.join(missing)}")
    return [folder / name for name in names]


def _by_split(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """Group by the start of a shard's name (test-00000-of-00002), else its folder (test/0000), else the whole name."""
    found: dict[str, list[Path]] = {}
    for file in files:
        shard = _SHARD_NAME.match(file.stem)
        folder = file.parent.name if file.parent != root and file.parent.name != "data" else file.stem
        found.setdefault(shard.group(1) if shard else folder, []).append(file)
    if len(found) == 1 and not set(found) & set(_SPLIT_NAMES):
        return {"train": files}
    return found
