# SPDX-License-Identifier: Apache-2.0
"""Files that survive a kill: atomic replacement, folders that appear whole or not at all, and a manifest of hashes
that finds every damaged, missing or added byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .faults import reach

MANIFEST = "MANIFEST.json"
FORMAT = 1
_CHUNK_BYTES = 1 << 22


def sync_folder(folder: Path) -> None:
    """Make the folder's own entries (names, renames) durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically: readers see the old one or the new one, never a part."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with staging.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    reach("json-staged")
    os.replace(staging, path)
    sync_folder(path.parent)


def cut_after(path: Path, step: int) -> int:
    """Drop the lines of a JSONL file whose `step` is greater, and a torn last line; return how many went."""
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _line_step(line) <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(line + "\n" for line in kept))
    return len(lines) - len(kept)


def _line_step(line: str) -> float:
    """Read a line's step; infinity for a line that is no JSON object with one."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _self_hash(manifest: dict[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "self"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _files_below(folder: Path) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST, None)
    return dict(sorted(found.items()))


def seal(folder: Path, step: int, facts: Mapping[str, Any] | None = None) -> None:
    """Flush every file of the folder to disk, then write its manifest, last; it states the facts, too."""
    files = _files_below(folder)
    entries = {}
    for name, path in files.items():
        _sync_file(path)
        entries[name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest: dict[str, Any] = {"format": FORMAT, "step": step, "files": entries, **(facts or {})}
    manifest["self"] = _self_hash(manifest)
    reach("save-flushed")
    write_json(folder / MANIFEST, manifest)
    for below in {path.parent for path in files.values()} | {folder}:
        sync_folder(below)


def read_manifest(folder: Path) -> dict[str, Any] | str:
    """Return the folder's manifest, or one phrase saying why it cannot be trusted."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return f"{path} is missing"
    except (ValueError, RecursionError):
        return f"{path} is not JSON"
    if not isinstance(manifest, dict) or manifest.get("self") != _self_hash(manifest):
        return f"{path} does not carry its own hash"
    if manifest.get("format") != FORMAT:
        return f"{path} has format {manifest.get('format')!r}, this version reads {FORMAT}"
    return manifest


def damage(folder: Path, hashes: bool = True) -> str | None:
    """Say what is wrong with a sealed folder, naming the file; None when nothing is.

    Args:
        hashes: also compare every file's content; False looks at names and sizes only.
    """
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        return manifest
    found = _files_below(folder)
    for name, entry in manifest["files"].items():
        if name not in found:
            return f"{folder / name} is missing"
        if found[name].stat().st_size != entry["bytes"]:
            return f"{folder / name} has {found[name].stat().st_size} bytes, {entry['bytes']} were written"
        if hashes and _sha256(found[name]) != entry["sha256"]:
            return f"{folder / name} was changed after it was written"
    surplus = sorted(set(found) - set(manifest["files"]))
    return f"{folder / surplus[0]} was added after the checkpoint was written" if surplus else None


@contextlib.contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """Give a fresh hidden folder to fill; it is removed when the body fails."""
    staging = parent / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(final: Path, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any] | None = None) -> None:
    """Let `fill` write into a hidden folder, seal it and rename it to `final`; an older one of that name goes away."""
    with staged(final.parent) as staging:
        reach("save-start")
        fill(staging)
        reach("save-filled")
        seal(staging, step, facts)
        reach("save-sealed")
        if final.exists():
            remove(final)
            reach("save-replaced")
        os.rename(staging, final)
        reach("save-renamed")
        sync_folder(final.parent)
    reach("save-done")


def remove(folder: Path) -> None:
    """Take a folder out of sight by one rename, then delete it; what cannot be deleted is left for `sweep`."""
    trash = folder.with_name(f".trash-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    reach("purge-start")
    os.rename(folder, trash)
    reach("purge-renamed")
    for path in list(_files_below(trash).values())[:1]:
        with contextlib.suppress(OSError):
            path.unlink()
    reach("purge-half")
    shutil.rmtree(trash, ignore_errors=True)
    reach("purge-done")


def sweep(parent: Path) -> None:
    """Delete what an earlier, killed process left half written or half deleted."""
    for pattern in (".tmp-*", ".trash-*"):
        for path in parent.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in parent.glob(".*.tmp"):
        path.unlink(missing_ok=True)
