# SPDX-License-Identifier: Apache-2.0
"""Pages whose blocks are to be followed: each does here what a reader would do, in a checkout of its own."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .reading import ROOT, SHELLS, blocks, lines, needs

pytestmark = pytest.mark.timeout(900)  # one page is a minute's work on a quiet core
SKIPPED = (".git", ".venv", ".venv-oracle", "runs", "work_dirs", "logs", "data", "build")


class Checkout:
    """A tree whose files are links to ours until they are changed."""

    def __init__(self, folder):
        self.folder = folder
        self._link(ROOT, folder)
        commands = folder / "bin"
        commands.mkdir()
        (commands / "r1-mllm").write_text(f'#!/bin/sh\nexec {sys.executable} -m r1_mllm "$@"\n')
        (commands / "r1-mllm").chmod(0o755)
        python = Path(sys.executable).parent
        self.environment = {
            "PATH": f"{commands}:{python}:/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(folder),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }

    def _link(self, source, target):
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            if (source == ROOT and path.name in SKIPPED) or path.name.endswith(".egg-info"):
                continue
            if path.is_dir() and path.name != "__pycache__":  # compiled loops are found there
                self._link(path, target / path.name)
            else:
                (target / path.name).symlink_to(path)

    def write(self, name, text, append=False):
        """Write a file of the page, or put it behind what is there."""
        path = self.folder / name
        old = path.read_text(encoding="utf-8") if append else ""
        path.unlink(missing_ok=True)
        path.write_text(old + text, encoding="utf-8")

    def change(self, diff):
        """Apply a diff without line numbers: every hunk's old lines stand exactly once in the file."""
        for part in re.split(r"^--- ", diff, flags=re.M)[1:]:
            head, *hunks = re.split(r"^@@.*\n", part, flags=re.M)
            name = re.search(r"^\+\+\+ b/(\S+)", head, re.M)[1]
            text = (self.folder / name).read_text(encoding="utf-8")
            for hunk in hunks:
                kept = hunk.splitlines(keepends=True)
                old = "".join(line[1:] for line in kept if line[0] in " -")
                assert text.count(old) == 1, f"{name}: {old}"
                text = text.replace(old, "".join(line[1:] for line in kept if line[0] in " +"))
            self.write(name, text)

    def run(self, script):
        """Run the text of shell blocks as one script; what it printed."""
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def follow(self, page, first, last=None, port=None):
        """Do what the blocks between two headings say, in order; what was printed."""
        text = (ROOT / page).read_text(encoding="utf-8")
        start = text.count("\n", 0, text.index(f"\n## {first}"))
        end = text.count("\n", 0, text.index(f"\n## {last}")) if last else text.count("\n")
        printed, waiting = "", []
        for block in blocks(ROOT / page):
            if not start < block.line < end or any(needs(line) for line in lines(block)):
                continue
            if block.language in SHELLS:
                waiting.append(block.text.replace("8000", str(port)) if port else block.text)
                continue
            printed += self.run("".join(waiting)) if waiting else ""
            waiting = []
            self._take(block)
        return printed + self.run("".join(waiting))

    def _take(self, block):
        named = re.search(r"(Write|Append to) `([\w./]+)`[^`]*(`[^`]*`[^`]*)*:$", block.before)
        if block.language == "diff":
            self.change(block.text)
        elif named:
            self.write(named[2], block.text if named[1] == "Write" else f"\n{block.text}", named[1] != "Write")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkout in which the page that begins everything was followed, and what it printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    return checkout, checkout.follow("docs/getting_started.md", "The main job, in small", port=port)


@pytest.mark.slow
def test_getting_started_leads_from_a_checkout_to_a_served_and_exported_model(trained):
    checkout, printed = trained
    for name in (
        "runs/quickstart-smoke/report.html",
        "runs/mine/report.html",
        "my_model/config.json",
        "my_model/README.md",
    ):
        assert (checkout.folder / name).stat().st_size > 500, name
    assert len((checkout.folder / "my_data/train.jsonl").read_text().splitlines()) == 50
    assert '"step": 4' in printed and '"id":"mine"' in printed.replace(" ", "") and "chat.completion" in printed
    assert "test.json: accuracy" in printed or "accuracy" in printed
    assert list((checkout.folder / "logs").glob("rec_results_test_*.json"))


@pytest.mark.slow
def test_a_reward_is_added_as_the_page_says(trained):
    checkout, _ = trained
    printed = checkout.follow("docs/extending.md", "A reward", "An objective")
    assert printed.splitlines()[-1] == "2"


def test_the_changes_a_page_asks_for_fit_the_files(tmp_path):
    checkout = Checkout(tmp_path / "checkout")
    for block in blocks(ROOT / "docs/extending.md"):
        if block.language not in SHELLS:
            checkout._take(block)
    for name in ("r1_mllm/tasks/colour.py", "r1_mllm/models/config.py", "my_rewards.py"):
        text = (checkout.folder / name).read_text(encoding="utf-8")
        compile(text, name, "exec")
        assert "olour" in text or "sailor_vl" in text or "short" in text
    shutil.rmtree(checkout.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "last", "told"),
    [("A task", "A reward", '"accuracy": 50.0'), ("A model family", "Other places", "passed")],
)
def test_a_task_and_a_model_family_are_added_as_the_page_says(tmp_path, first, last, told):
    printed = Checkout(tmp_path / "checkout").follow("docs/extending.md", first, last)
    assert told in printed and "failed" not in printed and "no tests ran" not in printed
