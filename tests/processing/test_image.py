# SPDX-License-Identifier: Apache-2.0
"""Pictures: sizes, modes and patches worked out by hand; what must be refused is, by name and cause."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from r1_mllm.processing import image as pictures
from r1_mllm.processing.image import MAX_PX, PixelConfig, image_size, open_image, patches, smart_resize, to_rgb


def encoded(image, kind="PNG", **options):
    """File content of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width=92, height=60):
    values = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_sizes_round_to_the_nearest_multiple_and_halves_to_the_even_one():
    assert smart_resize(480, 640) == (476, 644)
    assert smart_resize(98, 70) == (112, 56)  # 3.5 -> 4, 2.5 -> 2


def test_limits_win_over_rounding():
    assert smart_resize(20, 25) == (56, 84)  # 56 px high and 70 wide would be enough; both sides round up
    assert smart_resize(1000, 2000, max_pixels=100_000) == (196, 420)  # 223.6 x 447.2 rounded down


def test_extreme_shapes_are_refused_and_the_limit_itself_is_not():
    with pytest.raises(ValueError, match="aspect ratio of 201x1 px must not exceed 200"):
        smart_resize(1, 201)
    assert smart_resize(1, 200)[0] == 28
    with pytest.raises(ValueError, match="empty"):
        smart_resize(0, 5)


def test_patches_stand_in_merge_order_with_channels_outside_times():
    rows, cols = 56, 84
    values = np.zeros((rows, cols, 3), np.uint8)
    values[..., 0] = np.arange(rows)[:, None]
    values[..., 1] = np.arange(cols)
    values[..., 2] = 200
    plain = PixelConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels, grid, original_wh, seen_wh = patches(Image.fromarray(values), plain)
    assert grid.tolist() == [1, 4, 6] and original_wh == seen_wh == (84, 56)
    assert pixels.shape == (24, 1176) and pixels.dtype == np.float32
    expected = []
    for block_row in range(2):
        for block_col in range(3):
            for row in (2 * block_row, 2 * block_row + 1):
                for col in (2 * block_col, 2 * block_col + 1):
                    patch = values[14 * row : 14 * row + 14, 14 * col : 14 * col + 14]
                    expected.append([patch[..., c].ravel() for c in (0, 0, 1, 1, 2, 2)])
    wanted = (np.array(expected).reshape(24, 1176) / 255).astype(np.float32)
    assert np.array_equal(pixels, wanted)


def test_patches_are_written_in_place():
    out = np.zeros((24, 1176), np.float32)
    pixels, *_ = patches(noise(84, 56), PixelConfig(), out=out)
    assert pixels is out and out.any()
    assert np.array_equal(out, patches(noise(84, 56), PixelConfig())[0])


def test_published_mean_and_deviation_are_applied_per_channel():
    pixels, *_ = patches(Image.new("RGB", (56, 56), (255, 0, 51)), PixelConfig())
    values = pixels[0].reshape(3, -1)[:, 0]
    by_hand = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711]
    assert values == pytest.approx(by_hand, abs=1e-6)


def test_tokens_are_counted_from_the_size_alone():
    config = PixelConfig(max_pixels=401_408)
    image = noise(1000, 700)
    assert config.num_tokens(image.size) == patches(image, config)[1].prod() // 4


def test_transparency_shows_white_and_not_the_hidden_colour():
    image = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
    image.putpixel((3, 2), (10, 20, 30, 255))
    image.putpixel((4, 2), (0, 0, 0, 128))
    shown = open_image(encoded(image))
    assert shown.mode == "RGB"
    assert shown.getpixel((0, 0)) == (255, 255, 255) and shown.getpixel((3, 2)) == (10, 20, 30)
    assert shown.getpixel((4, 2)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["LA", "L", "P", "RGB"])
def test_every_kind_of_transparency_is_seen(mode):
    if mode == "LA":
        content = encoded(Image.new("LA", (40, 30), (5, 0)))
    else:
        colour = (9, 9, 9) if mode == "RGB" else 9
        image = Image.new(mode, (40, 30), colour)
        if mode == "P":
            image.putpalette([index // 3 for index in range(768)])
        content = encoded(image, transparency=colour)
    assert open_image(content).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_and_not_cut():
    values = np.array([[0, 200, 257, 40_000, 65_400, 65_535]], np.uint16)
    shown = np.asarray(open_image(encoded(Image.fromarray(values))))
    assert shown[0, :, 0].tolist() == [0, 1, 1, 156, 254, 255]  # a division by 256 gives 0 and 255


def test_cmyk_bilevel_and_grey_become_rgb():
    assert open_image(encoded(noise().convert("CMYK"), "JPEG")).mode == "RGB"
    assert open_image(encoded(Image.new("1", (9, 9), 1))).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(Image.new("L", (9, 9), 70))).getpixel((0, 0)) == (70, 70, 70)


def test_floating_point_pictures_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        open_image(Image.new("F", (9, 9)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_turns_picture_and_size(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: bottom left comes to the top left
    image = Image.new("RGB", (80, 50), "black")
    image.paste("white", (0, 25, 40, 50))
    content = encoded(image, kind, exif=exif)
    shown = open_image(content)
    assert shown.size == image_size(content) == (50, 80)
    assert shown.getpixel((5, 5))[0] > 200 and shown.getpixel((45, 5))[0] < 50 and shown.getpixel((5, 75))[0] < 50


def test_a_decoded_picture_is_left_as_it_is():
    image = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
    open_image(image)
    assert image.mode == "RGBA" and image.getpixel((0, 0)) == (255, 0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_half_a_file_is_an_error_with_its_cause(kind):
    content = encoded(noise(), kind)
    with pytest.raises(ValueError, match="picture of") as caught:
        open_image(content[: len(content) // 2])
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_half_a_file_is_noticed_while_its_size_is_read(kind, tmp_path):
    content = encoded(noise(), kind)
    assert image_size(content) == (92, 60)
    path = tmp_path / "cut.bin"
    path.write_bytes(content[: len(content) // 2])
    for source in (str(path), path.read_bytes()):
        with pytest.raises(ValueError, match=r"^[^:]*(cut\.bin|bytes): [^/]+$"):
            image_size(source)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_padding_behind_a_picture_does_no_harm(kind):
    assert image_size(encoded(noise(), kind) + b"\0" * 500) == (92, 60)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    for read in (open_image, image_size):
        with pytest.raises(ValueError, match=r"notes\.jpg: no readable picture"):
            read(str(path))
        with pytest.raises(ValueError, match=r"absent\.jpg") as caught:
            read(tmp_path / "absent.jpg")
        assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_what_is_not_a_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a regular file"):
        open_image(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a regular file"):
        image_size(tmp_path)


def _png_claiming(width, height):
    content = b"\x89PNG\r\n\x1a\n"
    for part in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"0" * 99)):
        content += struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    return content


@pytest.mark.parametrize("side", [8001, 60_000])
def test_a_bomb_is_refused_from_its_header(side):
    assert side**2 > MAX_PX
    for read in (open_image, image_size):
        with pytest.raises(ValueError, match="limit"):
            read(_png_claiming(side, side))


def test_the_limit_can_be_set():
    with pytest.raises(ValueError, match="92x60 px is more than the limit of 5000 px"):
        open_image(encoded(noise()), max_px=5000)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
def test_a_large_webp_is_refused_before_pillow_makes_room_for_it(options, monkeypatch):
    content = encoded(noise(), "WEBP", **options)
    assert open_image(content, max_px=2 * 92 * 60).size == (92, 60)
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ValueError, match="92x60 px is more than the limit of 5519 px"):
        open_image(content, max_px=2 * 92 * 60 - 1)


def test_pictures_converted_in_bands_are_what_they_are_as_a_whole(monkeypatch):
    rgba = Image.fromarray(np.random.default_rng(2).integers(0, 256, (60, 92, 4)).astype(np.uint8))
    deep = Image.fromarray(np.random.default_rng(3).integers(0, 65536, (60, 92)).astype(np.uint16))
    palette = rgba.convert("RGB").quantize(16)
    palette.info["transparency"] = 3
    whole = [np.asarray(to_rgb(picture)) for picture in (rgba, deep, palette)]
    monkeypatch.setattr(pictures, "BAND_PX", 92 * 7)
    for picture, expected in zip((rgba, deep, palette), whole, strict=True):
        assert (np.asarray(to_rgb(picture)) == expected).all()


def test_one_damaged_byte_in_a_png_is_noticed():
    content = bytearray(encoded(noise()))
    content[content.index(b"IDAT") + 100] ^= 1
    with pytest.raises(ValueError, match="checksum of its IDAT part is wrong"):
        open_image(bytes(content))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused_unless_the_first_is_wanted(kind):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="more than one frame"):
        open_image(content)
    first = open_image(content, first_frame=True).getpixel((0, 0))
    assert first[0] > 200 and first[2] < 50


def test_a_camera_jpeg_with_a_preview_behind_it_is_one_picture():
    content = encoded(noise(), "MPO", save_all=True, append_images=[noise(46, 30)])
    assert open_image(content).size == (92, 60)


def test_formats_with_interpreters_are_not_opened():
    with pytest.raises(ValueError, match="no readable picture"):
        open_image(encoded(noise(), "EPS"))


def test_settings_that_cannot_be_followed_are_errors():
    with pytest.raises(ValueError, match="do_normalize"):
        PixelConfig.from_dict({"do_normalize": False})
    with pytest.raises(ValueError, match="min_pixels 5000 must be above 0 and at most max_pixels 4000"):
        PixelConfig(min_pixels=5000).with_limits(None, 4000)


def test_a_folder_without_settings_warns_and_takes_the_published_ones(tmp_path, caplog):
    assert PixelConfig.from_pretrained(tmp_path) == PixelConfig()
    assert "published defaults" in caplog.text
