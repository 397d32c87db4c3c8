# SPDX-License-Identifier: Apache-2.0
"""Text, paths and model folders made to hang, escape or run code."""

import ast
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from r1_mllm.answers import boxes, expression, latex
from r1_mllm.config import DataConfig, RewardConfig
from r1_mllm.data import read
from r1_mllm.data.mixture import load_examples
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.image import open_image
from r1_mllm.records import Example
from r1_mllm.rewards.user_rewards import decode, encode
from r1_mllm.tasks import TASKS

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests/golden/cases/e2e/checkpoint"
FAMILIES = {
    "boxes": "[1, 2, 3, 4], ",
    "json boxes": '{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, ',
    "open brackets": "[[({",
    "half boxes": "[1, 2, 3 ",
    "digits": "1234567890",
    "groups of digits": "1,234,",
    "blanks": " \t\n",
    "open tags": "<answer><think>",
    "tags": "<think>a</think><answer>b</answer>",
    "fences": "```json [",
    "boxed": "\\boxed{",
    "equations": "x = 1 or y = 2 and ",
    "roots": "\\sqrt (\\frac 1",
    "words": "the answer is not B, but ",
    "degrees": "3 ^ \\circ cm ^2 %",
    "minus": "- -",
}
GOLD = {
    **{"rec": (1.0, 2.0, 30.0, 40.0), "gui": (1.0, 2.0, 30.0, 40.0), "counting": 3, "classification": "cat"},
    "open_detection": (((1.0, 2.0, 3.0, 4.0), "cat"),),
}


def seconds_of(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def repeated(unit, size):
    return (unit * (size // len(unit) + 1))[:size]


def grade(name, text):
    task = TASKS[name]
    example = Example(name, "q", GOLD.get(name, "3"))
    for whole in (text, f"<think>{text}</think><answer>3</answer>", f"<think>t</think><answer>{text}</answer>"):
        task.check_format(whole, example)
        try:
            task.grade(whole, example, (), RewardConfig())
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            pytest.fail(f"{name}: {error!r} on {whole[:40]!r}")


TEXT_TASKS = ("math_boxed", "counting", "rec", "geometry")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if i else ()) for i, n in enumerate(TEXT_TASKS)]
)
def test_time_grows_with_the_text_and_not_with_its_square(name):
    for family, unit in FAMILIES.items():
        short, long = (
            min(seconds_of(partial(grade, name, repeated(unit, size))) for _ in range(2)) for size in (10_000, 80_000)
        )
        assert long <= 2.6**3 * max(short, 0.002), (family, short, long)  # 2.6 for each doubling; the square takes 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math_boxed"])
def test_a_million_characters_take_a_moment(name):
    for family, unit in FAMILIES.items():
        taken = min(seconds_of(lambda unit=unit: grade(name, repeated(unit, 1_000_000))) for _ in range(3))
        assert taken / 6 <= 0.1, (family, taken)  # grade and form of three texts


def test_what_is_not_linear_only_sees_short_text():
    for family, unit in FAMILIES.items():
        text = repeated(unit, latex.MAX_CHARS)
        assert seconds_of(lambda text=text: expression.read(text)) < 0.25, family
        long = repeated(unit, 10**6)
        assert seconds_of(lambda long=long: latex.equivalent(long, "1", lambda *_: "different")) < 0.05, family


CRAFTED = [
    *("9^{9^{9}}", "10000000!", "\\binom{10^7}{5000000}", "\\sum_{k=1}^{10^8} 1/k", "2^{2^{31}}", "(((" * 50 + "1"),
    *("\\int_0^1 \\sin(x^x)\\cos(e^{x^2}) dx", "{" + ",".join(map(str, range(60))) + "}", "1 " * 100, "9" * 250),
    *("x^{99999}", "(1+x)^{9999999}", "\\sqrt{" * 40 + "2" + "}" * 40, "\\frac{1}{" * 30 + "1" + "}" * 30),
    *("\\prod_{i=1}^{10^9} i", "\\lim_{x \\to 0} \\frac{\\sin x^{x^x}}{x}", "a^{b^{c^{d^{e^{f}}}}}", "100000^{100000}"),
    *("((10!)!)!", "\\int_{0}^{\\infty} x^{x^{x}} dx"),
    *("((((9!)!)!)!)!", "10^{10^{10}}", "7^{7^{7^{7}}}", "(10^{10})!", "\\binom{10^9}{10^8}", "0.5^{-2^{40}}"),
    *("\\sum_{n=1}^{10^{12}} \\frac{1}{n^2}", "\\sum_{i=1}^{9999}\\sum_{j=1}^{9999} i^j", "\\prod_{p=1}^{10^6} p^p"),
    *("\\int e^{e^{e^{x}}} dx", "\\int \\frac{\\sin x}{x^{x}} dx", "\\int_0^1\\int_0^1\\int_0^1 x^{y^{z}} dx dy dz"),
    *(
        "\\lim_{n \\to \\infty} (1+\\frac{1}{n})^{n^{n}}",
        "\\frac{d}{dx} x^{x^{x^{x^{x}}}}",
        "\\sqrt[999999]{10^{999999}}",
    ),
    *(
        "\\log_{2}{2^{2^{30}}}",
        "\\ln{(10^{7})!}",
        "\\sin{(10^{10^{6}})}",
        "\\cos{\\cos{\\cos{\\cos{x^{x}}}}}",
        "|" * 120 + "1",
    ),
    *("(x+y+z+w)^{400}", "(a+b)^{3000}-(a+b)^{2999}(a+b)", "\\frac{x^{9999}-1}{x-1}", "(x^{64}-1)(x^{63}+1)" * 8),
    *(
        "\\begin{pmatrix}" + "1 & 2 \\\\ " * 40 + "\\end{pmatrix}",
        "\\begin{vmatrix} x^{99} & y \\\\ z & w \\end{vmatrix}^{99}",
    ),
    *("[" * 100 + "]" * 100, "\\{" * 60 + "1" + "\\}" * 60, "(" + "1," * 900 + "1)", "1" + "+1" * 900, "-" * 400 + "1"),
    *(
        "x=1 \\or " * 60,
        "x^2=2," * 60,
        "1<x<" * 90 + "2",
        "\\pm" * 80 + "1",
        "0." + "3" * 380,
        "1e999999999",
        "1" + "0" * 390,
    ),
    *("\\frac" * 120 + "12", "{" * 200 + "1" + "}" * 200, "\\left(" * 70 + "1" + "\\right)" * 70),
    *("\\infty^{\\infty}!", "\\text{" + "a" * 1500 + "}", "\\sqrt{x^{2^{2^{2^{2^{2}}}}}}"),
]


@pytest.mark.slow
def test_twenty_hostile_answers_in_two_hundred_cost_little():
    example = Example("math_boxed", "q", "\\frac{\\sqrt{3}}{2}")
    plain = [f"so \\boxed{{{n} + \\sqrt{{{n}}}}}" for n in range(180)]
    task, config = TASKS["math_boxed"], RewardConfig()
    task.grade(plain[0], example, (), config)  # starts the worker

    def grades(texts):
        start = time.monotonic()
        found = [task.grade(text, example, (), config) for text in texts]
        return found, time.monotonic() - start

    clean, alone = grades(plain)
    mixed, together = grades([text for i, text in enumerate(plain) for text in _with_hostile(i, text)])
    others = [found for i, found in enumerate(mixed) if i % 10]
    assert [g.score for g in others] == [g.score for g in clean]
    assert not any(found.correct for i, found in enumerate(mixed) if i % 10 == 0)
    assert together - alone < 5.0, (alone, together)


SECONDS = 2.5
"""A comparison's limit of 2 s, and what it takes to notice."""


@pytest.mark.slow
def test_sixty_crafted_answers_and_long_texts_are_bounded_and_the_worker_goes_on():
    assert len(set(CRAFTED)) >= 60
    example, good = Example("math_boxed", "q", "\\frac{\\sqrt{3}}{2}"), "\\boxed{\\sqrt{3} / 2}"
    task, config = TASKS["math_boxed"], RewardConfig()

    def graded(text):
        start = time.monotonic()
        return task.grade(text, example, (), config), time.monotonic() - start

    for text in [*CRAFTED, *(repeated(unit, 50_000) for unit in FAMILIES.values())]:
        for _ in range(2):  # others use this machine: what is slow once must be slow again
            assert graded(good)[0].correct  # the worker answers, a new one if need be
            found, seconds = graded(f"\\boxed{{{text}}}")
            assert not found.correct and found.score == 0.0, text[:60]
            if seconds <= SECONDS:
                break
        assert seconds <= SECONDS, (text[:60], seconds)


def _with_hostile(number, text):
    return [f"\\boxed{{{CRAFTED[number // 9]}}}", text] if number % 9 == 0 else [text]


def forms(tmp_path):
    """17 spellings of a picture that must not be read."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    Image.new("RGB", (28, 28)).save(outside / "secret.png")
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    (root / "chain.png").symlink_to(root / "link.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "up").symlink_to("..")
    secret = outside / "secret.png"
    return root, [
        *("../outside/secret.png", str(secret), "link.png", "folder/secret.png", "sub/../../outside/secret.png"),
        *("folder/../outside/secret.png", "./../outside/secret.png", "//" + str(secret), "chain.png", "loop.png"),
        *("up/outside/secret.png", "sub", ".", "", "a\0b.png", "/dev/zero", "/proc/self/environ"),
    ]


opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)


def test_seventeen_forms_of_path_are_refused_without_opening_anything_outside(tmp_path):
    root, names = forms(tmp_path)
    assert len(names) == 17
    path = tmp_path / "rows.jsonl"
    for name in names:
        path.write_text(json.dumps({"image": [name], "problem": "How many?", "solution": "1"}) + "\n")
        del opened[:]
        with pytest.raises(ValueError):
            load_examples(DataConfig(dataset_name=str(path), task="counting", image_root=str(root)), "train", None)
        assert not [file for file in opened if "secret" in file or file.startswith(("/dev/z", "/proc/self/e"))], name


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pdparams", "pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_by_content_and_never_run(tmp_path, name):
    folder = shutil.copytree(
        ROOT / "tests/golden/cases/e2e/checkpoint", tmp_path / "model", copy_function=shutil.copyfile
    )
    folder.chmod(0o755)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises(ValueError, match="safetensors"):
        load_pretrained(folder)
    assert not (tmp_path / "marker").exists()


def test_no_module_unpickles_or_evaluates_text():
    allowed = {("gold_check.py", "eval")}  # arithmetic of gold answers whose atoms are checked before
    found = set()
    for path in (ROOT / "r1_mllm").rglob("*.py"):
        text = path.read_text()
        if not re.search(r"pickle|dill|marshal|eval\(|exec\(|load\(", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                found |= {(path.name, word) for word in names if word in ("pickle", "dill", "cloudpickle", "marshal")}
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.add((path.name, node.func.id))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("paddle.load", "torch.load", "np.load"):
                found.add((path.name, ast.unparse(node.func)))
    assert found <= allowed


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 40_000, "num_attention_heads": 40},
        {"intermediate_size": 100_000},
        {"num_hidden_layers": 1000},
        {"num_hidden_layers": 10**6},
        {"vocab_size": 10**12},
        {"vocab_size": 4_000_000},
        {"max_position_embeddings": 10**18},
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(tmp_path, fields):
    folder = shutil.copytree(
        ROOT / "tests/golden/cases/e2e/checkpoint", tmp_path / "model", copy_function=shutil.copyfile
    )
    folder.chmod(0o755)
    config = json.loads((folder / "config.json").read_text())
    for holder in (config, config.get("text_config", {})):
        holder.update({name: value for name, value in fields.items() if name in holder})
    (folder / "config.json").write_text(json.dumps(config))
    started = time.process_time()
    with pytest.raises(ValueError, match=str(folder)):
        load_pretrained(folder)
    assert time.process_time() - started < 5.0


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@settings(max_examples=25, deadline=None)
@given(JSON_VALUES)
def test_whatever_an_example_holds_comes_back_from_the_worker(value):
    assert decode(json.loads(json.dumps(encode(value)))) == value


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(), min_size=8, max_size=8))
def test_overlap_is_a_share_for_any_numbers(numbers):
    assert 0.0 <= boxes.iou(tuple(numbers[:4]), tuple(numbers[4:])) <= 1.0


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_complaints(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(content)
    complaints = []
    try:
        rows = list(read.rows(path, on_bad=lambda where, problem: complaints.append(where)))
    except ValueError:
        return
    filled = [line for line in content.split(b"\n") if line.strip(b" \t\r\n\xef\xbb\xbf")]
    assert len(rows) + len(complaints) == len(filled)


PEAK = """
import re, sys
from r1_mllm.processing.image import PixelConfig, open_image, patches
picture = open_image(sys.argv[1])
assert picture.mode == "RGB" and picture.size == (8000, 8000)
patches(picture, PixelConfig(max_pixels=50176))
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["LA", "I;16"])
def test_the_largest_pictures_allowed_stay_below_600_mib(tmp_path, mode):
    picture = Image.new("LA", (8000, 8000), (10, 100))
    if mode == "I;16":
        picture = Image.fromarray(np.full((8000, 8000), 40_000, np.uint16))
    picture.save(tmp_path / "large.png", compress_level=1)
    told = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "large.png"], capture_output=True, text=True)
    assert 250 < int(told.stdout) < 600, told.stderr


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_awkward_pictures_stay_small_in_memory():
    frames = [Image.new("L", (60, 60), n % 255) for n in range(301)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="more than one frame"):
        open_image(buffer.getvalue())
    large = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(large, "PNG")
    with pytest.raises(ValueError, match="12000x12000 px is more than the limit"):
        open_image(large.getvalue())
    clear = Image.new("RGBA", (30, 30), (255, 0, 0, 0))
    assert np.asarray(open_image(clear)).min() == 255


def test_files_of_a_folder_that_nest_without_end_are_refused_by_name(tmp_path):
    from r1_mllm.models import adapter_files, weights
    from r1_mllm.models.config import ModelArch
    from r1_mllm.processing.image import read_json
    from r1_mllm.training import durable

    deep = '{"a":' * 100_000
    for name in (adapter_files.CONFIG, "config.json", weights.INDEX, durable.MANIFEST):
        (tmp_path / name).write_text(deep)
    readers = {
        adapter_files.CONFIG: adapter_files.read_spec,
        "config.json": ModelArch.from_pretrained,
        weights.INDEX: weights._read_index,
    }
    for name, read_file in readers.items():
        with pytest.raises(ValueError, match=re.escape(name)):
            read_file(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        read_json(tmp_path / "config.json")
    assert "is not JSON" in durable.read_manifest(tmp_path)
