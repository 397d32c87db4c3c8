# SPDX-License-Identifier: Apache-2.0
"""Prompts: placeholders match pictures, lengths are known before decoding, boxes carry the family's units."""

import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r1_mllm.processing.prompt import Processor

CHECKPOINT = Path(__file__).parents[1] / "golden" / "cases" / "e2e" / "checkpoint"


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(CHECKPOINT)


def chat(num_images=1, text="How many?"):
    parts = [{"type": "image"}] * num_images + [{"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def picture(width=84, height=56, colour="red"):
    return Image.new("RGB", (width, height), colour)


def _folder_with(tmp_path, **changes):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "model", copy_function=shutil.copyfile)
    folder.chmod(0o755)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_placeholders_equal_merged_visual_tokens(processor):
    prompt = processor.encode(chat(2), [picture(84, 56), picture(112, 140)])
    assert prompt.grids.tolist() == [[1, 4, 6], [1, 10, 8]]
    assert (prompt.ids == processor.tokenizer.image_pad_id).sum() == 6 + 20
    assert prompt.pixels.shape == (24 + 80, 1176) and prompt.ids.dtype == np.int64
    assert prompt.text.count("<|image_pad|>") == 2
    first = processor.encode(chat(1), [picture(84, 56)]).pixels
    assert np.array_equal(prompt.pixels[:24], first)


def test_paths_contents_and_pictures_give_the_same_prompt(processor, tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    prompts = [processor.encode(chat(), [s]) for s in (picture(), buffer.getvalue(), str(tmp_path / "a.png"))]
    assert all(np.array_equal(prompt.pixels, prompts[0].pixels) for prompt in prompts)


def test_text_alone_is_a_prompt(processor):
    prompt = processor.encode([{"role": "user", "content": "2 + 3?"}])
    assert prompt.pixels is None and prompt.grids is None and prompt.views == ()
    assert prompt.positions.tolist() == [list(range(len(prompt.ids)))] * 3
    assert prompt.next_position == len(prompt.ids)


def test_the_length_is_known_from_the_sizes(processor):
    sizes = [(84, 56), (1000, 300), (5, 700)]
    images = [picture(*size) for size in sizes]
    assert [processor.image_size(image) for image in images] == sizes
    assert processor.prompt_length(chat(3), sizes) == len(processor.encode(chat(3), images).ids)


@pytest.mark.parametrize("given", [0, 1, 3])
def test_pictures_and_places_must_be_equal_in_number(processor, given):
    message = rf"room for 2 picture\(s\) but {given} were given"
    with pytest.raises(ValueError, match=message):
        processor.encode(chat(2), [picture()] * given)
    with pytest.raises(ValueError, match=message):
        processor.prompt_length(chat(2), [(84, 56)] * given)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|video_pad|>", "<|im_end|>"])
def test_control_tokens_in_what_people_wrote_are_refused(processor, token):
    for messages in (chat(1, f"see {token} here"), [{"role": "user", "content": token}]):
        with pytest.raises(ValueError, match="holds the control token"):
            processor.encode(messages, [picture()])


def test_videos_are_refused(processor):
    with pytest.raises(ValueError, match="videos are not decoded"):
        processor.encode([{"role": "user", "content": [{"type": "video"}]}])


def test_an_unreadable_picture_is_named(processor, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        processor.encode(chat(), [str(tmp_path / "bad.jpg")])


def test_boxes_seen_by_the_model_return_to_the_picture(processor):
    view = processor.encode(chat(), [picture(200, 100)]).views[0]
    assert view.original_wh == (200, 100) and view.seen_wh == (196, 112) and view.box_units == "seen_px"
    assert view.to_original((98, 28, 196, 112)) == (100, 25, 200, 100)


@pytest.mark.parametrize(
    ("family", "units", "seconds"), [("qwen2_vl", "per_mille", None), ("qwen2_5_vl", "seen_px", 2)]
)
def test_the_family_comes_from_the_config(tmp_path, family, units, seconds):
    processor = Processor.from_pretrained(_folder_with(tmp_path, model_type=family))
    assert processor.box_units == units and processor.tokens_per_second == seconds


def test_an_unknown_family_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: model_type is 'llava', expected qwen2_vl or qwen2_5_vl"):
        Processor.from_pretrained(_folder_with(tmp_path, model_type="llava"))


def test_given_limits_win_over_the_checkpoint():
    processor = Processor.from_pretrained(CHECKPOINT, max_pixels=3136 * 2, min_pixels=784)
    assert processor.pixels.max_pixels == 6272
    assert processor.encode(chat(), [picture(500, 500)]).views[0].seen_wh == (56, 56)


def test_a_chat_is_rendered_once(processor):
    fresh = Processor(processor.tokenizer, processor.pixels, "seen_px")
    length = fresh.prompt_length(chat(1, "once"), [(84, 56)])
    fresh.tokenizer = None  # a second rendering would need it
    assert len(fresh._chat(chat(1, "once"), True)[1]) == length - 5


def test_it_can_be_sent_to_another_process(processor):
    copy = pickle.loads(pickle.dumps(processor))
    assert np.array_equal(copy.encode(chat(), [picture()]).ids, processor.encode(chat(), [picture()]).ids)


def test_nothing_here_imports_paddle():
    code = "import sys, r1_mllm.processing.prompt; sys.exit('paddle' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
