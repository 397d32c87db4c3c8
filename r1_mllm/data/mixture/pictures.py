# SPDX-License-Identifier: Apache-2.0
"""Where the pictures of a row are: under the image root, as regular files, or inside the row."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Sequence
from pathlib import Path


class PictureRoot:
    """Finds picture files under a folder and refuses to leave it.

    `own_folder` is where we put pictures that came inside rows; it is always permitted.
    """

    def __init__(self, root: str | Path, allow_outside: bool = False, own_folder: Path | None = None) -> None:
        self.root = Path(root)
        self.allow_outside = allow_outside
        self._real_roots = [os.path.realpath(folder) for folder in (root, own_folder) if folder is not None]
        self._real_folder = functools.lru_cache(maxsize=65536)(os.path.realpath)

    def find(self, images: Sequence[str | bytes]) -> tuple[tuple[str | bytes, ...], list[str]]:
        """Join paths with the root; file contents stay as they are.

        Returns:
            The pictures in order and the complaints: one per path that is missing, no file, or outside the root.
        """
        found, complaints = [], []
        for image in images:
            if isinstance(image, bytes):
                found.append(image)
                continue
            path = os.path.normpath(os.path.join(self.root, image))
            complaint = self._complaint(image, path)
            if complaint:
                complaints.append(complaint)
            found.append(path)
        return tuple(found), complaints

    def _complaint(self, image: str, path: str) -> str | None:
        if not image or "\0" in image:
            return f"image {image!r} is not a path"
        joined = os.path.join(self.root, image)  # not normalised: a link before ".." must be followed first
        real = os.path.join(self._real_folder(os.path.dirname(joined)), os.path.basename(joined))
        if os.path.islink(real) or os.path.basename(joined) in ("", ".", ".."):
            real = os.path.realpath(joined)
        inside = any(os.path.commonpath([folder, real]) == folder for folder in self._real_roots)
        if not inside and not self.allow_outside:
            return f"image {image!r} leaves the image root {self.root}; --allow_outside_image_root permits it"
        try:
            mode = os.stat(real).st_mode
        except OSError as error:
            return f"image {path} is missing ({error.strerror})"
        return None if stat.S_ISREG(mode) else f"image {path} is not a regular file"
