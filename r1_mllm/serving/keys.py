# SPDX-License-Identifier: Apache-2.0
"""The keys of those who are let in."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..runtime import Stop


def read_keys(path: str | None) -> tuple[bytes, ...]:
    """Digests of the keys in a file, one key a line; none when there is no file."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"--api_key_file {path} cannot be read: {error}") from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise Stop(f"--api_key_file {path} holds no key")
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)
