# SPDX-License-Identifier: Apache-2.0
"""Patches of awkward pictures equal those of the reference image processor; so does the size rule."""

import hashlib
import json

import numpy as np
import pytest

from r1_mllm.processing.image import PixelConfig, image_size, open_image, patches, smart_resize

LOSSLESS = (".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def _read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _bytes_of(pixels, config):
    """[N, 1176] uint8: undo the normalisation."""
    planes = pixels.reshape(len(pixels), 3, -1)
    values = planes * np.float32(config.std)[:, None] + np.float32(config.mean)[:, None]
    return np.rint(values * 255).astype(np.uint8).reshape(pixels.shape)


def _check_result(path, entry, expected, rows):
    config = PixelConfig(min_pixels=expected["min_pixels"], max_pixels=expected["max_pixels"])
    if "error" in expected:
        with pytest.raises(ValueError, match=path.name):
            open_image(path, first_frame=True)
        with pytest.raises(ValueError, match="ratio"):
            image_size(path)
        return
    image = open_image(path, first_frame=True)
    pixels, grid, original_wh, seen_wh = patches(image, config)
    assert list(original_wh) == entry["size_after_exif_wh"] == list(image_size(path, first_frame=True))
    assert [seen_wh[1], seen_wh[0]] == expected["resized_hw"]
    assert grid.tolist() == expected["image_grid_thw"]
    assert list(pixels.shape) == expected["pixel_values_shape"] and pixels.dtype == np.float32
    assert config.num_tokens(original_wh) == grid.prod() // 4
    white = expected.get("white_blend")
    lossless = path.suffix in LOSSLESS
    if lossless:
        wanted = (white or expected)["u8_sha256"]
        assert hashlib.sha256(_bytes_of(pixels, config).tobytes()).hexdigest() == wanted, path.name
    tolerance = 1e-5 if lossless else 2 / 255 / min(config.std)
    if white is None:
        assert np.abs(pixels[[0, -1]] - rows[expected["rows_key"]]).max() <= tolerance
    if white is None and "all_u8_key" in expected:
        wanted = rows[expected["all_u8_key"]].astype(int)
        assert np.abs(_bytes_of(pixels, config) - wanted).max() <= (0 if lossless else 2)
    target = white or expected
    assert pixels.mean(dtype=np.float64) == pytest.approx(target["mean"], abs=1e-5 if lossless else 0.02)
    assert pixels.std(dtype=np.float64) == pytest.approx(target["std"], abs=1e-5 if lossless else 0.02)


def test_every_picture_gives_the_reference_patches(images_case):
    case, rows = _read(images_case, "case.json"), np.load(images_case / "rows.npz")
    for entry in case["files"]:
        for expected in entry["results"]:
            _check_result(images_case / "files" / entry["file"], entry, expected, rows)


def test_a_batch_is_its_pictures_one_after_the_other(images_case):
    batch = _read(images_case, "case.json").get("batch")
    if batch is None:
        pytest.skip("no batch in this set")
    config = PixelConfig(min_pixels=batch["min_pixels"], max_pixels=batch["max_pixels"])
    cut = [patches(open_image(images_case / "files" / name, first_frame=True), config) for name in batch["files"]]
    pixels = np.concatenate([one[0] for one in cut])
    assert list(pixels.shape) == batch["pixel_values_shape"]
    assert [one[1].tolist() for one in cut] == batch["image_grid_thw"]
    assert pixels.sum(dtype=np.float64) == pytest.approx(batch["sum"], abs=1e-5 * pixels.size)


def test_mean_and_deviation_come_from_the_settings(images_case):
    custom = _read(images_case, "case.json").get("custom_norm")
    if custom is None:
        pytest.skip("no custom normalisation in this set")
    limits = {name: custom[name] for name in ("min_pixels", "max_pixels", "image_mean", "image_std")}
    pixels, *_ = patches(open_image(images_case / "files" / custom["file"]), PixelConfig.from_dict(limits))
    wanted = np.load(images_case / "rows.npz")[custom["rows_key"]]
    assert np.abs(pixels[: len(wanted)] - wanted).max() <= 1e-5


def test_the_size_rule_agrees_on_every_row(images_case):
    for height, width, factor, min_pixels, max_pixels, expected in _read(images_case, "smart_resize.json")["rows"]:
        if expected == "ValueError":
            with pytest.raises(ValueError):
                smart_resize(height, width, factor, min_pixels, max_pixels)
        else:
            assert list(smart_resize(height, width, factor, min_pixels, max_pixels)) == expected, (height, width)


def test_every_spelling_of_the_settings_means_the_same(images_case, tmp_path):
    spellings = _read(images_case, "preprocessor_configs.json")
    words = spellings["meaning"].replace(",", " ").split()
    limits = [int(word.partition("=")[2]) for word in words if word.startswith(("min_pixels=", "max_pixels="))]
    for index, variant in enumerate(spellings["variants"]):
        folder = tmp_path / str(index)
        folder.mkdir()
        name = "processor_config.json" if "image_processor" in variant else "preprocessor_config.json"
        (folder / name).write_text(json.dumps(variant))
        assert PixelConfig.from_pretrained(folder) == PixelConfig(min_pixels=limits[0], max_pixels=limits[1])
