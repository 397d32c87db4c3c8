# SPDX-License-Identifier: Apache-2.0
"""Pictures that come inside parquet rows: kept in memory up to a limit, then as files beside the data set.

A published counting set has 13 GB of them, and every process of a run reads the data set.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LIMIT_BYTES = 256 << 20
FOLDER = ".r1_mllm_pictures"
FIELDS = ("image", "images", "image_bytes", "decoded_image", "image_path")


class EmbeddedPictures:
    """Replaces the pictures of rows by files once a data set's pictures exceed the limit."""

    def __init__(self, dataset: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = (dataset if dataset.is_dir() else dataset.parent).absolute() / FOLDER
        self._left = limit_bytes
        self._can_write: bool | None = None

    def stored(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row, its pictures replaced by absolute paths where the limit is used up."""
        for field in FIELDS:
            value = row.get(field)
            if isinstance(value, list):
                row[field] = [self._stored(item) for item in value]
            elif value is not None:
                row[field] = self._stored(value)
        return row

    def _stored(self, item: Any) -> Any:
        content = item.get("bytes") if isinstance(item, Mapping) else item
        if not isinstance(content, bytes):
            return item
        self._left -= len(content)
        return item if self._left >= 0 or not self._writable() else self._write(content)

    def _writable(self) -> bool:
        if self._can_write is None:
            try:
                self.folder.mkdir(exist_ok=True)
                self._can_write = os.access(self.folder, os.W_OK)
            except OSError:
                self._can_write = False
            place = f"go to {self.folder}" if self._can_write else f"stay in memory: cannot write {self.folder}"
            log.warning("the data set's pictures exceed %d MiB; the rest will %s", LIMIT_BYTES >> 20, place)
        return self._can_write

    def _write(self, content: bytes) -> str:
        """Write once under the content's checksum; several processes may do so at the same time."""
        path = self.folder / hashlib.sha256(content).hexdigest()[:40]
        if not path.exists():
            partial = path.with_name(f"{path.name}.{os.getpid()}")
            partial.write_bytes(content)
            os.replace(partial, path)
        return str(path)
