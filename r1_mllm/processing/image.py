# SPDX-License-Identifier: Apache-2.0
"""Pictures: checked before they are decoded, resized to what the vision tower takes, cut into patches.

Axes of a patch row (1176 values): 3 channels, 2 times (the same frame twice), 14 rows, 14 columns.  Patches stand in
merge order: block row, block column, row within the block, column within the block; a block is merge_size squared
patches and becomes one visual token.
"""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import struct
import zlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

MAX_PX = 64_000_000
"""Area above which a picture is refused from its header: decoding it would take 200 MB and more."""
WEBP_SHARE = 0.5
"""Of max_px for a WebP picture: its decoder holds five times the pixels."""
WEBP_HEAD_BYTES = 30
MAX_ASPECT = 200
BAND_PX = 1 << 20
"""Pictures are converted so much at a time: a whole one in a mode between the file's and RGB takes as much again."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow opens forty more, interpreters such as EPS among them; none belongs in a data set."""
MULTI_FRAME_FORMATS = ("PNG", "WEBP", "GIF", "TIFF")  # a camera's JPEG (MPO) has previews behind it
END_MARKS, TAIL_BYTES = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}, 64
"""What stands in a whole file's last bytes; cameras and servers may put a little padding behind it."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Every class seen from Pillow on 12,000 damaged files, and their relatives; damaged pictures are input, not bugs.
DECODE_ERRORS = (
    *(OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, ArithmeticError, AttributeError),
    *(RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)

Source = str | os.PathLike | bytes | Image.Image
"""A path, the encoded content of a file, or a picture already decoded."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PixelConfig:
    """What preprocessor_config.json says; the defaults are those of the published checkpoints."""

    min_pixels: int = 3136
    """Area after resizing; smaller pictures are enlarged."""
    max_pixels: int = 12_845_056
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    rescale_factor: float = 1 / 255
    resample: int = Image.Resampling.BICUBIC

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            numbers = value if name in ("mean", "std") else (value,)
            right = isinstance(numbers, tuple) and (len(numbers) == 3 or name not in ("mean", "std"))
            kind = float if name in ("mean", "std", "rescale_factor") else int
            if not right or not all(_is_number(number, kind) for number in numbers):
                raise ValueError(f"{name} is {value!r}; take preprocessor_config.json from the model's own repository")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} must be above 0 and at most max_pixels {self.max_pixels}")
        if min(self.patch_size, self.merge_size, self.temporal_patch_size) < 1 or min(self.std) <= 0:
            raise ValueError(f"patch_size, merge_size, temporal_patch_size and std must be above 0: {self}")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> PixelConfig:
        """Read the settings in any spelling in use: flat, `size` with either key pair, nested `image_processor`."""
        settings = settings.get("image_processor", settings)
        size = settings.get("size") or {}
        if not isinstance(size, Mapping):
            raise ValueError(f"size is {size!r}; take preprocessor_config.json from the model's own repository")
        for switch in ("do_resize", "do_rescale", "do_normalize"):
            if settings.get(switch) is False:
                raise ValueError(f"{switch}: false is not supported; the model was trained with it")
        found = {
            "min_pixels": _first(settings.get("min_pixels"), size.get("min_pixels"), size.get("shortest_edge")),
            "max_pixels": _first(settings.get("max_pixels"), size.get("max_pixels"), size.get("longest_edge")),
            "mean": _first(settings.get("image_mean")),
            "std": _first(settings.get("image_std")),
        }
        for name in ("patch_size", "merge_size", "temporal_patch_size", "rescale_factor", "resample"):
            found[name] = settings.get(name)
        found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
        return cls(**{name: value for name, value in found.items() if value is not None})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> PixelConfig:
        """Read preprocessor_config.json, or processor_config.json, of a checkpoint folder."""
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = Path(folder) / name
            if not path.is_file():
                continue
            settings = read_json(path)
            if name.startswith("pre") or "image_processor" in settings:
                return cls.from_dict(settings)
        log.warning("%s has no preprocessor_config.json: pictures are prepared with the published defaults", folder)
        return cls()

    def with_limits(self, min_pixels: int | None, max_pixels: int | None) -> PixelConfig:
        """Replace the limits that are not None."""
        return replace(self, min_pixels=min_pixels or self.min_pixels, max_pixels=max_pixels or self.max_pixels)

    @property
    def factor(self) -> int:
        """Side of a merged block in px; both sides of a resized picture are multiples of it."""
        return self.patch_size * self.merge_size

    @cached_property
    def lookup(self) -> np.ndarray:
        """[3, 256] float32: the normalised value of each byte, per channel, rounded as the reference rounds it."""
        scaled = (np.arange(256) * self.rescale_factor).astype(np.float32)
        return (scaled - np.float32(self.mean)[:, None]) / np.float32(self.std)[:, None]

    def seen_hw(self, height: int, width: int) -> tuple[int, int]:
        """Size a picture of [height, width] px is resized to."""
        return smart_resize(height, width, self.factor, self.min_pixels, self.max_pixels)

    def num_tokens(self, original_wh: tuple[int, int]) -> int:
        """Count the merged visual tokens of a picture from its size in px alone."""
        height, width = self.seen_hw(original_wh[1], original_wh[0])
        return (height // self.factor) * (width // self.factor)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError naming the file when it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _is_number(value: Any, kind: type) -> bool:
    """Say whether a setting is a finite number of sensible size; int admits no fraction."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        return False
    return -(2**40) < value < 2**40


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def smart_resize(
    height: int, width: int, factor: int = 28, min_pixels: int = 3136, max_pixels: int = 12_845_056
) -> tuple[int, int]:
    """Find the (height, width) px nearest in shape whose sides divide by factor and whose area is within limits.

    Halves round to even.  ValueError for sides below 1 or an aspect ratio above 200.
    """
    if min(height, width) < 1:
        raise ValueError(f"a picture of {width}x{height} px is empty")
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ValueError(f"aspect ratio of {width}x{height} px must not exceed {MAX_ASPECT}")
    seen_h, seen_w = round(height / factor) * factor, round(width / factor) * factor
    if seen_h * seen_w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        seen_h = max(factor, math.floor(height / shrink / factor) * factor)
        seen_w = max(factor, math.floor(width / shrink / factor) * factor)
    elif seen_h * seen_w < min_pixels:
        enlarge = math.sqrt(min_pixels / (height * width))
        seen_h = math.ceil(height * enlarge / factor) * factor
        seen_w = math.ceil(width * enlarge / factor) * factor
    return seen_h, seen_w


def source_name(source: Source) -> str:
    """Name a picture in messages."""
    if isinstance(source, bytes):
        return f"picture of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"{source.mode} picture {source.width}x{source.height}"
    return os.fspath(source)


@contextmanager
def _named_errors(source: Source):
    """Turn whatever Pillow raises into a ValueError that says which picture and why."""
    try:
        yield
    except DECODE_ERRORS as error:
        plain = isinstance(error, ValueError | OSError) and str(error)
        cause = str(error) if plain else f"cannot be decoded ({type(error).__name__}: {error})"
        if isinstance(error, Image.UnidentifiedImageError):
            cause = f"no readable picture in one of the formats {', '.join(FORMATS)}"
        raise ValueError(f"{source_name(source)}: {cause}") from error


def _open_checked(source: Source, max_px: int, first_frame: bool) -> Image.Image:
    """Read the header only and refuse what must not be decoded."""
    image = source
    if not isinstance(source, Image.Image):
        if not isinstance(source, bytes) and not stat.S_ISREG(os.stat(source).st_mode):
            raise ValueError("not a regular file")
        _check_area(*_webp_size(_head(source)), int(max_px * WEBP_SHARE))
        image = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    width, height = image.size
    _check_area(width, height, max_px)
    if min(width, height) < 1:
        raise ValueError(f"a picture of {width}x{height} px is empty")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"aspect ratio of {width}x{height} px must not exceed {MAX_ASPECT}")
    if not first_frame and image.format in MULTI_FRAME_FORMATS and getattr(image, "is_animated", False):
        raise ValueError("has more than one frame; store the frame that is meant as a picture of its own")
    return image


def _check_area(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise ValueError(f"{width}x{height} px is more than the limit of {most} px")


def _head(source: str | os.PathLike | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:WEBP_HEAD_BYTES]
    with open(source, "rb") as file:
        return file.read(WEBP_HEAD_BYTES)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Read (width, height) px of a WebP file from its first bytes: Pillow makes room for the pixels as it opens it.

    (0, 0) for other files.  The fields are those of RFC 9649, section 2.
    """
    if len(head) < WEBP_HEAD_BYTES or head[:4] + head[8:12] != b"RIFFWEBP":
        return 0, 0
    width, height = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    if head[12:16] == b"VP8X":
        width, height = 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = width & 0x3FFF, height & 0x3FFF
    return width, height


def image_size(source: Source, max_px: int = MAX_PX, first_frame: bool = False) -> tuple[int, int]:
    """Read (width, height) px after EXIF rotation from the header, without decoding.

    A PNG that keeps its orientation behind the pixels or in XMP comes out unturned.  Arguments and errors are those
    of `open_image`, as far as the header shows; a file without its format's end is decoded to see whether it is whole.
    """
    with _named_errors(source):
        image = _open_checked(source, max_px, first_frame)
        # Pillow has turned the size of a TIFF already, and decodes a PNG to look for EXIF behind the pixels.
        readable = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        turned = readable and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        size = image.size
        whole = True
        if image is not source:
            whole = _ends_as_it_should(source, image.format)
            image.close()
    if not whole:
        open_image(source, max_px, first_frame)
    return (size[1], size[0]) if turned else size


def _ends_as_it_should(source: str | os.PathLike | bytes, name: str | None) -> bool:
    """Look for a format's end mark in the last bytes; False for a format without one."""
    if isinstance(source, bytes):
        tail = source[-TAIL_BYTES:]
    else:
        with open(source, "rb") as file:
            file.seek(max(0, os.path.getsize(source) - TAIL_BYTES))
            tail = file.read()
    return name in END_MARKS and END_MARKS[name] in tail


def open_image(source: Source, max_px: int = MAX_PX, first_frame: bool = False) -> Image.Image:
    """Decode a picture fully, upright, as RGB; transparency is composited on white, 16 bits are scaled to 8.

    Args:
        source: path, file content or decoded picture (which is left as it is).
        max_px: area in px above which it is refused before decoding.
        first_frame: take the first frame of an animation or a multi-page file, which is an error otherwise.

    Raises:
        ValueError: names the picture and the cause (unreadable, truncated, too large, too narrow, animated ...).
    """
    with _named_errors(source):
        image = _open_checked(source, max_px, first_frame)
        if image.format == "PNG" and not isinstance(source, Image.Image):
            _check_png(source if isinstance(source, bytes) else Path(source).read_bytes())
        image.load()
        if image is source:
            return to_rgb(ImageOps.exif_transpose(image))
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def _check_png(content: bytes) -> None:
    """Check the checksum of every pixel chunk: Pillow decodes a damaged one without a word."""
    start = len(PNG_SIGNATURE)
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if kind == b"IEND":
            return
        if end + 4 > len(content):
            raise ValueError(f"file is truncated in its {kind.decode('latin-1')} part")
        checksum = int.from_bytes(content[end : end + 4], "big")
        if kind[0] & 32 == 0 and zlib.crc32(memoryview(content)[start + 4 : end]) != checksum:
            raise ValueError(f"checksum of its {kind.decode('latin-1')} part is wrong")
        start = end + 4


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB without surprises in alpha or depth; the picture itself when it is RGB already."""
    if image.mode.startswith("I"):
        image = _by_bands(image, "L", _sixteen_to_eight)
    if image.mode == "F":
        raise ValueError("pictures of floating-point numbers have no defined brightness; store 8 or 16 bits")
    if image.has_transparency_data:
        return _by_bands(image, "RGB", _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_bands(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a picture some rows at a time."""
    result = Image.new(mode, image.size)
    num_rows = max(1, BAND_PX // image.width)
    for top in range(0, image.height, num_rows):
        box = (0, top, image.width, min(top + num_rows, image.height))
        result.paste(convert(image.crop(box)), box)
    return result


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _sixteen_to_eight(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its values reach from {values.min()} to {values.max()}, beyond 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def patches(
    image: Image.Image, config: PixelConfig, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[int, int], tuple[int, int]]:
    """Cut an RGB picture into normalised patches.

    Args:
        image: as `open_image` gives it.
        out: [N, 1176] float32, C-contiguous, to write to; None: a new array.

    Returns:
        pixels [N, 1176] float32 in merge order, grid [3] int64 patches (1, h, w), original (w, h) px, seen (w, h) px.
    """
    assert image.mode == "RGB", image.mode
    height, width = config.seen_hw(image.height, image.width)
    resized = image if image.size == (width, height) else image.resize((width, height), config.resample)
    side, merge = config.patch_size, config.merge_size
    rows, cols = height // side, width // side
    planes = np.asarray(resized).reshape(rows // merge, merge, side, cols // merge, merge, side, 3)
    planes = planes.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * cols, 3, side * side)  # [N, 3, 196] uint8, one copy
    if out is None:
        out = np.empty((rows * cols, 3 * config.temporal_patch_size * side * side), np.float32)
    frames = out.reshape(rows * cols, 3, config.temporal_patch_size, side * side)  # a view of out
    for channel in range(3):
        frames[:, channel] = np.take(config.lookup[channel], planes[:, channel])[:, None]
    return out, np.array([1, rows, cols], np.int64), image.size, (width, height)
