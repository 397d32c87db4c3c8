# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation: their fenced blocks, the command lines in them, their links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELLS = ("", "sh", "bash", "shell", "console")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```", re.M | re.S)
ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*", re.S)
OURS = ("r1-mllm", "python", "python3", "bash", "sh", "pytest", "scripts/")
OTHERS = ("pip", "visualdl", "docker", "vllm", "ray", "lmms/", "curl", "torchrun", "swift", "trl", "accelerate", "git")


def pages():
    """Every page, the two at the top first."""
    return [ROOT / "README.md", ROOT / "README_zh.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str
    before: str
    """The paragraph that introduces it."""
    after: str
    """The paragraph behind it."""

    @property
    def place(self):
        return f"{self.page}:{self.line}"


def blocks(page):
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        inner = "\n".join(line.removeprefix(match["indent"]) for line in match["text"].splitlines())
        before, after = text[: match.start()].rstrip().split("\n\n")[-1], text[match.end() :].strip().split("\n\n")[0]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(str(page.relative_to(ROOT)), line, match["language"], inner + "\n", before, after))
    return found


@dataclass(frozen=True)
class Line:
    """A command line as it is typed."""

    place: str
    variables: dict
    words: tuple

    def __str__(self):
        return f"{self.place} {shlex.join(self.words)[:90]}"


def lines(block):
    """The command lines of a block: comments gone, continued lines joined, here-documents passed over."""
    if block.language not in SHELLS:
        return []
    found = []
    for line in _joined(block.text):
        words = shlex.split(line.removeprefix("$ "), comments=True)
        words = words[: words.index("&&")] if "&&" in words else words
        count = next((i for i, word in enumerate(words) if not ASSIGNED.fullmatch(word)), len(words))
        variables, words = dict(word.split("=", 1) for word in words[:count]), words[count:]
        if words and words[0].startswith((*OURS, *OTHERS)) and not words[0].endswith("/"):
            found.append(Line(block.place, variables, tuple(word for word in words if word not in ("&", "..."))))
    return found


def _joined(text):
    """Logical lines; what stands in a here-document or in quotes over several lines belongs to its command."""
    text = re.sub(r"<<-?'?(\w+)'?(.*?)^\1$", r"\2", text, flags=re.M | re.S) if "<<" in text else text
    text = text.replace("\\\n", " ")
    kept = []
    for line in text.splitlines():
        try:
            shlex.split(line, comments=True)
        except ValueError:  # words of a person, or a text over several lines
            continue
        kept.append(line)
    return kept


def links(page):
    """(target, anchor) of the links of a page to files of the tree."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    return [tuple(target.partition("#")[::2]) for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page):
    """The anchors of a page's headings, as code hosts make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def rows(page, heading):
    """Cells of the first table after a heading of a page, its two head lines left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    after = text[text.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(after) if line.startswith("|"))
    end = next((i for i in range(start, len(after)) if not after[i].startswith("|")), len(after))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in after[start + 2 : end]]


SCRIPTS_WITH_DEFAULT = r"scripts/(run_\w+|stage\d_\w+|eval_rec_table)\.sh"
"""On a machine without a GPU these run rendered scenes when nothing is given, published models otherwise."""


def needs(line):
    """What a command line needs beyond this machine: GPU, network, both or nothing."""
    words, given = " ".join(line.words), " ".join(f"{k}={v}" for k, v in line.variables.items())
    both = f"{given} {words}"
    found = set()
    published = re.search(r"\bQwen/|_[237]b\.yaml", both)
    script = next((i for i, word in enumerate(line.words) if re.fullmatch(SCRIPTS_WITH_DEFAULT, word)), None)
    asks = script is not None and (len(line.words) > script + 1 or line.variables)
    if published or asks or re.search(r"\b(GPUS=|NNODES=|vllm|nproc_per_node|--gpus)", both):
        found.add("GPU")
    fetches = re.search(r"\bdata prepare|scripts/prepare_\w+\.sh", words) and "--from" not in words
    if fetches or re.search(r"pip install|docker build|git clone|ollama|ray start", words):
        found.add("network")
    return found
