# SPDX-License-Identifier: Apache-2.0
"""Unpack archives that nobody has vetted: nothing leaves the folder, no links, no devices, no bombs."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

MAX_MEMBERS = 2_000_000
MAX_EXPANSION = 100
"""Unpacked bytes per packed byte, beyond the first 64 MiB; annotations pack 10 to 30 times, bombs 1000 times."""
FREE_EXPANSION_BYTES = 64 << 20
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    is_file: bool
    handle: tarfile.TarInfo | zipfile.ZipInfo


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a .tar, .tar.gz, .tgz or .zip into a new folder and return the number of files.

    Refuses, naming the member: paths that leave the folder, links, devices, names that come twice, and more bytes than
    an honest archive of this size holds.  The caller removes the folder after an error.
    """
    folder.mkdir(parents=True)
    allowed = FREE_EXPANSION_BYTES + MAX_EXPANSION * archive.stat().st_size
    num_files = total = 0
    with _opened(archive) as container:
        for number, member in enumerate(_members(container), start=1):
            target = folder / _safe_name(member, archive)
            total += member.size
            if number > MAX_MEMBERS or total > min(allowed, shutil.disk_usage(folder).free + total - member.size):
                raise ValueError(f"{archive}: at {member.name!r} it unpacks to more than is sensible or than fits")
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            _copy(container, member, target, archive)
            num_files += 1
    return num_files


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile | zipfile.ZipFile]:
    """Open an archive; what is wrong inside comes out as ValueError."""
    opener = zipfile.ZipFile if zipfile.is_zipfile(archive) else tarfile.open
    try:
        with opener(archive) as container:
            yield container
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, LookupError) as error:
        raise ValueError(f"{archive}: damaged, or neither tar nor zip ({error})") from error


def _members(container: tarfile.TarFile | zipfile.ZipFile) -> Iterator[_Member]:
    if isinstance(container, tarfile.TarFile):
        for info in container:
            yield _Member(info.name, info.size, info.isdir(), info.isreg(), info)
        return
    for entry in container.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG) and not entry.is_dir() and not entry.flag_bits & 1
        yield _Member(entry.filename, entry.file_size, entry.is_dir(), plain, entry)


def _safe_name(member: _Member, archive: Path) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if not (member.is_file or member.is_folder):
        raise ValueError(f"{archive}: {member.name!r} is a link, a device or encrypted; refused")
    unsafe = name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name
    if unsafe or (name.parts and ":" in name.parts[0]):
        raise ValueError(f"{archive}: {member.name!r} would be written outside the folder; refused")
    return name


def _copy(container: tarfile.TarFile | zipfile.ZipFile, member: _Member, target: Path, archive: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source: IO[bytes]
    if isinstance(container, tarfile.TarFile):
        source = container.extractfile(member.handle)
    else:
        source = container.open(member.handle)
    try:
        with closing(source), target.open("xb") as file:
            _copy_exactly(source, file, member.size)
    except (ValueError, FileExistsError) as error:
        raise ValueError(f"{archive}: {member.name!r} comes twice or is not the size it claims ({error})") from error


def _copy_exactly(source: IO[bytes], file: IO[bytes], size: int) -> None:
    left = size
    while block := source.read(COPY_BYTES):
        left -= len(block)
        if left < 0:
            raise ValueError("longer than declared")
        file.write(block)
    if left:
        raise ValueError("shorter than declared")
