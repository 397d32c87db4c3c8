# SPDX-License-Identifier: Apache-2.0
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from r1_mllm.data import read
from r1_mllm.data.synthetic import drawing, scene, weak_answer, write_dataset, write_splits
from r1_mllm.data.synthetic.scenes import TASKS, _scaled_box


def rng(seed=0):
    return np.random.default_rng(seed)


def pixels_of(picture, colour):
    return np.argwhere((np.asarray(picture) == drawing.COLOURS[colour]).all(-1))


def test_the_rec_box_holds_exactly_the_pixels_of_the_object():
    draw = rng(1)
    for _ in range(50):
        picture, row = scene("rec", draw, max_objects=1)
        colour = row["normal_caption"].split()[1]
        ys_xs = pixels_of(picture, colour)
        (top, left), (bottom, right) = ys_xs.min(0), ys_xs.max(0) + 1
        assert row["solution"] == [left, top, right, bottom]
        assert row["normalized_solution"] == [round(1000 * v / 84) for v in (left, top, right, bottom)]


def test_the_rec_phrase_fits_one_object_only(monkeypatch):
    draw, drawn = rng(2), []
    paste = Image.Image.paste

    def remember(self, colour, at, mask):
        drawn.append((colour, at, mask.size))
        paste(self, colour, at, mask)

    monkeypatch.setattr(Image.Image, "paste", remember)
    counts = set()
    for _ in range(60):
        drawn.clear()
        _, row = scene("rec", draw, max_objects=4, side=112)
        box, colour = row["solution"], drawing.COLOURS[row["normal_caption"].split()[1]]
        same_place = [1 for c, (x, y), _ in drawn if c == colour and [x, y] == box[:2]]
        counts.add(len(drawn))
        assert len(same_place) == 1
        boxes = [(x, y, x + w, y + h) for _, (x, y), (w, h) in drawn]
        apart = [a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a in boxes for b in boxes if a != b]
        assert all(apart)
    assert counts == {1, 2, 3, 4}


def test_objects_of_one_rec_scene_never_share_colour_and_shape():
    from r1_mllm.data.synthetic.objects import SceneOptions, layout

    for seed in range(40):
        things = layout(rng(seed), 4, SceneOptions(side=112), distinct=True)
        assert len({(thing.colour, thing.shape) for thing in things}) == 4


def test_the_counting_answer_is_the_number_of_separate_blobs():
    ndimage = pytest.importorskip("scipy.ndimage")
    draw = rng(3)
    for _ in range(40):
        picture, row = scene("counting", draw)
        array = np.asarray(picture)
        ink = np.zeros(array.shape[:2], bool)
        for colour in drawing.COLOURS.values():
            ink |= (array == colour).all(-1)
        _, num = ndimage.label(ink, np.ones((3, 3)))
        assert row["solution"] == f"<answer> {num} </answer>"


def test_the_area_is_the_number_of_shaded_cells():
    draw, cell = rng(4), 83 / 6
    for _ in range(40):
        picture, row = scene("geometry", draw, figures=("area",))
        array = np.asarray(picture)
        middles = [round(cell * (i + 0.5)) for i in range(6)]
        shaded = sum(tuple(array[y, x]) in drawing.COLOURS.values() for y in middles for x in middles)
        assert row["solution"] == f"<answer> {shaded} </answer>"


def test_angles_are_multiples_of_15_and_near_misses_are_wrong():
    draw = rng(5)
    for _ in range(50):
        _, row = scene("geometry", draw, figures=("angle",))
        degrees = int(re.search(r"\d+", row["solution"]).group())
        assert degrees % 15 == 0 and 30 <= degrees <= 150
        assert str(degrees) not in row["near_misses"] and row["near_misses"]


def test_the_two_rays_enclose_the_angle_that_is_asked_for():
    picture = Image.new("RGB", (84, 84), "white")
    drawing.draw_angle(picture, 90, 0, "red")
    ink = (np.asarray(picture) == drawing.COLOURS["red"]).all(-1)
    assert ink[42, 70] and ink[70, 42] and not ink[14, 42] and not ink[42, 14]


@pytest.mark.parametrize("task", TASKS)
def test_the_same_generator_draws_the_same_scene_and_another_one_does_not(task):
    one, same, other = (scene(task, rng(seed)) for seed in (7, 7, 8))
    assert one[1] == same[1]
    one, same, other = (np.asarray(drawn[0] if task != "gui" else drawn[0][1]) for drawn in (one, same, other))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize("task", TASKS)
def test_no_layout_is_in_both_splits(task):
    from r1_mllm.data.synthetic.objects import in_split

    layouts = [("area", i) for i in range(2000)]
    train = {layout for layout in layouts if in_split(layout, "train")}
    held_out = {layout for layout in layouts if in_split(layout, "test")}
    assert not train & held_out and len(train | held_out) == 2000 and 300 < len(held_out) < 500
    scene(task, rng(), split="test")


def test_train_and_held_out_rec_scenes_differ_in_what_they_show():
    scenes = {}
    for split in ("train", "test"):
        draw = rng(9)  # the same seed on purpose: the layouts themselves must be apart
        scenes[split] = {repr(scene("rec", draw, max_objects=1, split=split)[1]) for _ in range(300)}
    assert not scenes["train"] & scenes["test"]


def test_the_weak_box_is_scaled_about_its_centre_and_clipped():
    assert _scaled_box([20.0, 30.0, 40.0, 36.0], (84, 84), 1.5) == [15.0, 28.5, 45.0, 37.5]
    assert _scaled_box([0.0, 70.0, 20.0, 84.0], (84, 80), 2.0) == [0.0, 63.0, 30.0, 80.0]


def test_weak_annotators_are_often_wrong_and_always_in_form():
    draw = rng(10)
    for task in ("counting", "geometry"):
        right = 0
        for _ in range(400):
            _, row = scene(task, draw)
            answer = weak_answer(task, row, draw)
            assert isinstance(answer, int if task == "counting" else str) and int(answer) > 0
            gold = int(row["solution"].split()[1])
            assert int(answer) >= gold  # careless in one direction
            assert task == "geometry" or int(answer) - gold in (0, 1)
            right += int(answer) == gold
        assert 0.33 < right / 400 < 0.47


def test_weak_boxes_are_better_than_half_only_sometimes():
    draw, hits = rng(11), 0
    for _ in range(400):
        _, row = scene("rec", draw)
        x1, y1, x2, y2 = row["solution"]
        a1, b1, a2, b2 = weak_answer("rec", row, draw)
        assert 0 <= a1 < a2 <= 84 and 0 <= b1 < b2 <= 84
        inner = (min(x2, a2) - max(x1, a1)) * (min(y2, b2) - max(y1, b1))
        hits += inner / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner) > 0.5
    assert 0.4 < hits / 400 < 0.75


def test_written_rec_files_have_the_published_columns(tmp_path):
    train, test = write_splits("rec", 5, tmp_path, num_test=3, seed=3)
    rows = json.loads(train.read_text())
    assert len(rows) == 5 and len(json.loads(test.read_text())) == 3
    assert {"image", "problem", "solution", "normalized_solution", "normal_caption"} <= rows[0].keys()
    for row in rows:
        with Image.open(tmp_path / row["image"]) as picture:
            assert picture.size == (84, 84) and picture.format == "PNG"


def test_the_seed_decides_what_is_written(tmp_path):
    paths = [write_dataset("counting", 4, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    a, b, c = ((path.parent / "images" / "train_000002.png").read_bytes() for path in paths)
    assert a == b != c


def test_a_parquet_folder_holds_pictures_as_structs(tmp_path):
    pytest.importorskip("pyarrow")
    folder = write_dataset("counting", 4, tmp_path, container="parquet")
    rows = [row for row, _ in read.rows(folder)]
    assert len(rows) == 4 and set(rows[0]) == {"image", "problem", "solution"}
    with Image.open(io.BytesIO(rows[3]["image"]["bytes"])) as picture:
        assert picture.size == (84, 84)


def test_digits_are_composed_and_named(tmp_path):
    pytest.importorskip("sklearn")
    draw = rng(12)
    captions = {scene("rec", draw, digits=True)[1]["normal_caption"] for _ in range(60)}
    assert any(re.fullmatch(r"the \w+ digit \d", caption) for caption in captions)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"max_objects": 0}, "max_objects"), ({"side": 10}, "side"), ({"figures": ("cube",)}, "cube")],
)
def test_wrong_options_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        scene("geometry", rng(), **options)


def test_an_unknown_task_is_named(tmp_path):
    with pytest.raises(ValueError, match="'recc'"):
        write_dataset("recc", 2, tmp_path)
    with pytest.raises(ValueError, match="'recc'"):
        scene("recc", rng())
