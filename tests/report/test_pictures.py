# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from PIL import Image

from r1_mllm.report.pictures import is_box, picture, thumbnail


@pytest.fixture
def scene(tmp_path):
    Image.new("RGB", (800, 400), (10, 200, 30)).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_boxes_keep_the_original_pictures_pixels_while_the_picture_shrinks(scene):
    svg = picture(str(scene), scene.parent, {"truth": [100, 50, 300, 250], "after": (90.5, 60.0, 280.0, 200.0)})
    assert 'viewBox="0 0 800 400"' in svg
    truth = re.search(r'<rect class="truth" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    assert [float(edge) for edge in truth.groups()] == [100, 50, 200, 200]
    assert 'class="after" x="90.5" y="60.0" width="189.5" height="140.0"' in svg
    assert thumbnail(scene)[1] == (800, 400)
    assert len(svg) < 20_000


def test_what_is_not_a_box_is_not_drawn(scene):
    svg = picture(str(scene), scene.parent, {"truth": 7, "after": None, "before": [1, 2, 3]})
    assert "<rect" not in svg and "<image" in svg
    assert not is_box("1234") and is_box((1, 2, 3, 4.5))


def test_corners_in_the_wrong_order_are_drawn_as_the_same_box(scene):
    svg = picture(str(scene), scene.parent, {"after": [300, 250, 100, 50]})
    assert 'class="after" x="100.0" y="50.0" width="200.0" height="200.0"' in svg


def test_a_picture_is_also_found_in_the_runs_folder(scene):
    assert "<image" in picture("scene.png", scene.parent, {})
    assert "<image" in picture(["scene.png", "other.png"], scene.parent, {})


@pytest.mark.parametrize("image", ["absent.png", None, [], "broken.png", "<812 bytes>"])
def test_a_picture_that_cannot_be_read_leaves_a_note(image, tmp_path):
    (tmp_path / "broken.png").write_text("not a picture")
    assert "<image" not in picture(image, tmp_path, {}) and "picture" in picture(image, tmp_path, {})
