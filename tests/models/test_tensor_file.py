# SPDX-License-Identifier: Apache-2.0
"""Number formats by their bits, and files that the reference library reads."""

import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r1_mllm.models import tensor_file


def bits(*values):
    return tensor_file.convert(np.array(values, np.float32), "float32", "bfloat16").tolist()


def test_bfloat16_rounds_to_nearest_even():
    assert bits(1.0, -2.0, 0.0) == [0x3F80, 0xC000, 0]
    assert bits(1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20) == [0x3F80, 0x3F82, 0x3F81]
    assert bits(float("inf"), 3.4e38) == [0x7F80, 0x7F80]


def test_a_nan_stays_a_nan_whatever_its_bits():
    odd = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    back = tensor_file.convert(tensor_file.convert(odd, "float32", "bfloat16"), "bfloat16", "float32")
    assert np.isnan(back).all()


def test_formats_convert_into_each_other():
    half = np.array([[1.5, -0.25], [3.0, 0.0]], np.float16)
    assert tensor_file.convert(half, "float16", "bfloat16").tolist() == [[0x3FC0, 0xBE80], [0x4040, 0]]
    assert tensor_file.convert(np.array([0x3FC0], np.uint16), "bfloat16", "float16").tolist() == [1.5]
    assert tensor_file.convert(half, "float16", "float16") is half


def test_conversion_in_blocks_forgets_no_element(monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK", 7)
    every = np.arange(1 << 16, dtype=np.uint16)
    back = tensor_file.convert(tensor_file.convert(every, "bfloat16", "float32"), "float32", "bfloat16")
    nan = (every & 0x7FFF) > 0x7F80
    assert np.array_equal(back[~nan], every[~nan]) and (back[nan] == 0x7FC0).all()


def test_damage_is_found_in_every_format():
    assert tensor_file.is_finite(np.array([0x7F7F, 0xFF7F], np.uint16), "bfloat16")
    assert not tensor_file.is_finite(np.array([0, 0xFF80], np.uint16), "bfloat16")
    assert not tensor_file.is_finite(np.array([[0, np.nan]], np.float32), "float32")


def test_what_is_written_is_what_the_library_reads(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1.5], np.float16)}
    layout = {"b": ("float32", (2, 3)), "a": ("float16", (1,))}
    tensor_file.write(tmp_path / "x.safetensors", layout, tensors.items())
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys() and all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_what_the_library_writes_is_read_without_loss(tmp_path):
    tensors = {"odd": np.arange(3, dtype=np.float16), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = tensor_file.entries(tmp_path / "x.safetensors")
    assert {name: entry.shape for name, entry in found.items()} == {"odd": (3,), "b": (2, 3)}
    assert all(np.array_equal(found[name].read(), tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a complete safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a complete safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content, reason):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        tensor_file.entries(file)
    assert str(file) in str(caught.value)


def test_a_file_with_a_byte_too_few_or_too_many_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": np.arange(40, dtype=np.float32)}, file)
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors: not a complete"):
            tensor_file.entries(file)
