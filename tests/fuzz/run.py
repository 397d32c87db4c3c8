# SPDX-License-Identifier: Apache-2.0
"""Feed damaged input to the parsers: `python tests/fuzz/run.py PARSER --num N [--seed S]`.

Each input is a file of corpus/PARSER, changed at random.  A parser may take it or refuse it with ValueError; anything
else is a finding: its input is written to corpus/PARSER/found-*, where every later run starts from it, and the exit
code is 1.  The last line says how many inputs were taken and refused, the slowest one, and the memory used.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
SLOW_SECONDS = 1.0
NASTY_VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**18), 0.5, 1e308, float("inf"), float("nan")),
    *("", "x", "\ud800", "\u2028", "\0", "../../x", "/etc/passwd", "<|image_pad|>", "a" * 5000, [], {}, [[]], [{}]),
    *([1, 2, 3, 4], [0] * 300, {"a": {"b": []}}, "NaN", "1e999", "<image>" * 40),
)
NASTY_BYTES = (
    *(b"\xff\xfe", b"\x00" * 64, b"[" * 3000, b"9" * 5000, b'{"a":' * 2000),
    *(b"\xed\xa0\x80", b"\xe2\x80\xa8", b"NaN"),
)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Change a few bytes: flip, cut, delete, repeat, insert, overwrite."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        size = rng.choice((1, 2, 4, 8, 64, 512))
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        elif kind == 4:
            data[at:at] = rng.randbytes(size)
        elif kind == 5 and rng.random() < 0.3:
            del data[at:]
        elif rng.random() < 0.3:
            data[at:at] = rng.choice(NASTY_BYTES)
    return bytes(data)


def nodes(tree: object) -> list[tuple[object, object]]:
    """List (container, key) of every value inside a JSON tree."""
    found, waiting = [], [tree]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        found += [(here, key) for key in keys]
        waiting += [here[key] for key in keys]
    return found


def reshaped(content: bytes, rng: random.Random) -> bytes:
    """Change a few values of a JSON file, or, one time in four, its bytes."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return damaged(content, rng)
    if rng.random() < 0.25:
        return damaged(content, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = nodes(tree)
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * rng.choice((-1, 0, 2, 3, 1000, 2**20))
        elif kind == 2:
            other, name = rng.choice(places)
            holder[key] = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else None))
        else:
            holder[key] = copy.deepcopy(rng.choice(NASTY_VALUES))  # a later change may reach into it
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def by_line(content: bytes, rng: random.Random) -> bytes:
    """Change one line of a JSONL file as JSON, or the file's bytes."""
    lines = content.split(b"\n")
    if rng.random() < 0.3:
        return damaged(content, rng)
    at = rng.randrange(len(lines))
    lines[at] = reshaped(lines[at], rng)
    return b"\n".join(lines)


def long_runs(content: bytes, rng: random.Random) -> bytes:
    """Repeat, splice and damage pieces of an answer."""
    text = content.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 2, 3))):
        start = rng.randrange(len(text) + 1)
        piece = text[start : start + rng.choice((1, 3, 10, 40))]
        text = text[:start] + piece * rng.choice((0, 2, 50)) + text[start:]
    return damaged(text.encode()[:20_000], rng) if rng.random() < 0.5 else text.encode()[:20_000]


def images(path: Path) -> None:
    from r1_mllm.processing.image import PixelConfig, image_size, open_image, patches

    image_size(path)
    image = open_image(path)
    patches(image, PixelConfig(max_pixels=50_176))


def jsonl(path: Path) -> None:
    from r1_mllm.config import DataConfig
    from r1_mllm.data.mixture import load_examples

    options = {"dataset_name": str(path), "data_policy": "quarantine", "max_bad": "100%", "image_root": str(HERE)}
    refusals = []
    for task in ("counting", "rec", "math", "vqa", None):
        try:
            load_examples(DataConfig(task=task, **options), "train", None)
        except ValueError as error:
            refusals.append(error)
    if len(refusals) == 5:
        raise refusals[-1]


def tensors(path: Path) -> None:
    from r1_mllm.models import tensor_file

    for entry in tensor_file.entries(path).values():
        if entry.dtype in tensor_file.NUMPY_DTYPES:
            entry.read().sum()


def configs(path: Path) -> None:
    from r1_mllm.models.config import ModelArch
    from r1_mllm.models.names import parameters
    from r1_mllm.processing.image import PixelConfig, read_json

    content = read_json(path)
    PixelConfig.from_dict(content)
    arch = ModelArch.from_dict(content, str(path))
    if arch.text.num_hidden_layers <= 64:
        parameters(arch)


def mixtures(path: Path) -> None:
    from r1_mllm.data.mixture.recipe import read_mixture

    here = os.getcwd()
    os.chdir(HERE)
    try:
        read_mixture(path)
    finally:
        os.chdir(here)


def parquet(path: Path) -> None:
    from r1_mllm.data import read

    read.num_rows(path)
    list(read.rows(path))


def archives(path: Path) -> None:
    from r1_mllm.data.unpacking import unpack

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unpack(path, Path(folder) / "out")


def settings(path: Path) -> None:
    from r1_mllm.config import GrpoConfig
    from r1_mllm.config.flags import parse
    from r1_mllm.runtime import Stop

    kept = dict(os.environ)
    try:
        parse(GrpoConfig, ["--config", str(path)], "fuzz")
    except (Stop, SystemExit) as error:
        raise ValueError(str(error)) from error
    finally:
        os.environ.clear()
        os.environ.update(kept)


def answers(path: Path) -> None:
    from r1_mllm.answers import boxes, choices, detections, expression, latex, markup, numerals, tags

    text = path.read_text("utf-8", "replace")
    parts = tags.split(text)
    for piece in (text, parts.answer or ""):
        boxes.first_box(piece)
        detections.parse(piece)
        numerals.single_number(piece)
        choices.letters(piece)
        markup.boxed(piece)
        expression.read(piece[: latex.MAX_CHARS])
        latex.equivalent(piece, "\\frac{1}{2}", lambda gold, answer: "different")


PARSERS: dict[str, tuple[Callable[[Path], None], Callable[[bytes, random.Random], bytes]]] = {
    "images": (images, damaged),
    "jsonl": (jsonl, by_line),
    "json": (jsonl, reshaped),
    "tensors": (tensors, damaged),
    "configs": (configs, reshaped),
    "mixtures": (mixtures, damaged),
    "parquet": (parquet, damaged),
    "archives": (archives, damaged),
    "settings": (settings, damaged),
    "answers": (answers, long_runs),
}
"""Name -> what reads a file, and how a file is changed."""


def corpus(name: str) -> list[Path]:
    """Files to start from, found inputs included."""
    return sorted(path for path in (HERE / "corpus" / name).iterdir() if path.is_file())


class Report:
    """What became of the inputs."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.worst = 0.0
        self.findings: list[str] = []

    def line(self, name: str, seed: int) -> str:
        """One line for people and for docs/reliability.md."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        total = sum(self.outcomes.values())
        return (
            f"{name}: {total} inputs, {self.outcomes['taken']} taken, {self.outcomes['refused']} refused, "
            f"{len(self.findings)} findings, slowest {1000 * self.worst:.0f} ms, {memory:.0f} MiB, seed {seed}"
        )


def fuzz(name: str, num: int, seed: int = 0, keep: bool = True) -> Report:
    """Run one parser over the corpus itself and then over `num` changed files."""
    parse, change = PARSERS[name]
    rng, report, files = random.Random(f"{name}/{seed}"), Report(), corpus(name)
    contents = [path.read_bytes() for path in files]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(len(files) + num):
            pick = number if number < len(files) else rng.randrange(len(files))
            content = contents[pick] if number < len(files) else change(contents[pick], rng)
            path = Path(folder) / f"input{files[pick].suffix}"
            path.write_bytes(content)
            problem = _try(parse, path, report)
            if problem:
                found = HERE / "corpus" / name / f"found-{sha256(content).hexdigest()[:12]}{path.suffix}"
                if keep:
                    shutil.copyfile(path, found)
                report.findings.append(f"{found}: {problem}")
    return report


def _try(parse: Callable[[Path], None], path: Path, report: Report) -> str | None:
    """Parse one file; say what is wrong with how it went."""
    start = time.process_time()
    try:
        parse(path)
        report.outcomes["taken"] += 1
    except ValueError:
        report.outcomes["refused"] += 1
    except Exception:
        report.outcomes["finding"] += 1
        return traceback.format_exc(limit=-6)
    seconds = time.process_time() - start
    report.worst = max(report.worst, seconds)
    return f"took {seconds:.1f} s" if seconds > SLOW_SECONDS else None


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parser", choices=[*PARSERS, "all"])
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = False
    for name in PARSERS if given.parser == "all" else [given.parser]:
        report = fuzz(name, given.num, given.seed)
        for finding in report.findings[:10]:
            print(finding, file=sys.stderr)
        print(report.line(name, given.seed), flush=True)
        failed = failed or bool(report.findings)
    return int(failed)


if __name__ == "__main__":
    import logging

    from r1_mllm import runtime

    runtime.prepare()
    logging.disable()
    raise SystemExit(main())
