# SPDX-License-Identifier: Apache-2.0
"""From a checked request to what the model reads: pictures fetched within the permitted folders, limits before work.

Nothing here goes to the network, and no message names a path.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from urllib.parse import unquote, urlsplit

from ..config.serving import ServeConfig
from ..data.mixture.pictures import PictureRoot
from ..processing.prompt import Processor
from ..records import Prompt
from .asks import ChatAsk, Picture, too_long
from .errors import ApiError


class Reader:
    """Reads requests' pictures and texts; may be used from several threads."""

    def __init__(self, processor: Processor, config: ServeConfig) -> None:
        self.processor, self.config = processor, config
        processor.max_px = config.max_image_px
        if processor.tokenizer.template is not None:
            processor.tokenizer.template.name = "chat template"  # its errors reach clients
        self._roots = [(os.path.realpath(folder), PictureRoot(folder)) for folder in config.allow_image_root]

    def prompt(self, ask: ChatAsk) -> Prompt:
        """Read a request; ApiError 400 for what cannot be read or is too long."""
        images = [self._image(picture) for picture in ask.pictures]
        try:
            text, ids = self.processor.rendered(ask.messages)
            sizes = [self.processor.image_size(image) for image in images]
            num = len(ids) + sum(self.processor.pixels.num_tokens(size) - 1 for size in sizes)
            if num > self.config.max_prompt_length:
                raise too_long(num, self.config)
            return self.processor.prompt_of(text, ids, images)
        except ValueError as error:
            raise ApiError(400, str(error)[:500], param="messages") from error

    def _image(self, picture: Picture) -> bytes:
        scheme, colon, rest = picture.url.partition(":")
        if colon and scheme.lower() == "data":
            return self._data(rest, picture.where)
        if colon and scheme.lower() == "file":
            return self._file(picture)
        raise self._wrong(
            picture.where, "pictures come as data:image/...;base64,... ; nothing is fetched from a network"
        )

    def _data(self, rest: str, where: str) -> bytes:
        about, comma, content = rest.partition(",")
        if not comma or not about.lower().rstrip().endswith(";base64"):
            raise self._wrong(where, "is no data:image/...;base64,... address")
        try:
            return base64.b64decode(content.strip(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._wrong(where, "is not base64") from error

    def _file(self, picture: Picture) -> bytes:
        """Content of a regular file under a permitted folder; which ones exist elsewhere is not told."""
        refused = self._wrong(picture.where, "no such picture in a permitted folder")
        try:
            address = urlsplit(picture.url)
            path = unquote(address.path, errors="strict")
        except ValueError as error:
            raise refused from error
        if address.netloc not in ("", "localhost") or address.query or address.fragment or not path.startswith("/"):
            raise refused
        for _, root in self._roots:
            try:
                (found,), complaints = root.find((path,))
            except (ValueError, OSError) as error:  # no text the system takes for a path
                raise refused from error
            if not complaints:
                return self._content(found, refused)
        raise refused

    def _content(self, path: str, refused: ApiError) -> bytes:
        """Read a file that may have been replaced since it was checked."""
        real = os.path.realpath(path)
        if not any(os.path.commonpath([folder, real]) == folder for folder, _ in self._roots):
            raise refused
        try:
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise refused from error
        with open(handle, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_size > self.config.max_body_bytes:
                raise refused
            return file.read(self.config.max_body_bytes)

    def _wrong(self, where: str, problem: str) -> ApiError:
        return ApiError(400, f"{where}: {problem}", param=where)
