# SPDX-License-Identifier: Apache-2.0
"""Screenshots of what people look at: the report (desk and phone), VisualDL, the page of `r1-mllm serve --web`.

Usage, from the checkout: python -m tests.report.screenshots OUT [--run RUN] [--model_path CHECKPOINT]
Without --run, a run made of numbers; without --model_path, RUN itself or a tiny checkpoint whose answers mean nothing.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

from r1_mllm.report import page
from r1_mllm.training.tracking import Tracker

from ..chromium import Browser
from ..training.test_tracking import with_picture
from .conftest import write_run

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "golden" / "cases" / "e2e" / "checkpoint"
READY = {
    "scalar": "document.querySelector('canvas') !== null",
    "image": "document.querySelector('img[src^=blob]') !== null",
    "text": "document.body.innerText.includes('expected')",
}
"""VisualDL's page -> true once it shows something of the run."""
DESK, PHONE = (1200, 900), (390, 844)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(command, url, seconds=120):
    """A server of its own process, once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                httpx.get(url, timeout=5)
                break
            except httpx.TransportError as error:
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError(f"{command} does not answer at {url}") from error
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def made_run(folder):
    """A run's folder with logs for VisualDL."""
    write_run(folder)
    tracker = Tracker(folder / "tracked", logging_dir=folder / "logs", total_steps=200)
    for step in range(1, 201):
        tracker.log(step, {"reward": 0.4 + 0.003 * step, "loss": 0.1 / step, "time/generate": 0.5})
        tracker.completions(step, [with_picture(folder)])
    tracker.close()
    return folder


def shoot_report(browser, report, out):
    """The whole page on a desk and on a phone, and its table after a filter."""
    for name, size in (("desk", DESK), ("phone", PHONE)):
        browser.size(*size, phone=name == "phone")
        browser.open(report.resolve().as_uri())
        browser.screenshot(out / f"report-{name}.png")
    browser.size(*DESK)
    browser.type("[name=least]", "1")
    browser.run("document.querySelector('#browser').scrollIntoView()")
    browser.screenshot(out / "report-table.png", whole=False)


@contextmanager
def visualdl(logs):
    port = free_port()
    code = "import sys; from visualdl.server.app import main; sys.argv[0] = 'visualdl'; main()"
    command = [sys.executable, "-c", code, "--logdir", str(logs), "--port", str(port), "--host", "127.0.0.1"]
    with running(command, f"http://127.0.0.1:{port}/app") as url:
        yield url


def shoot_visualdl(browser, logs, out):
    """Its pages of numbers, pictures and texts."""
    browser.size(1500, 1000)
    with visualdl(logs) as url:
        for name, ready in READY.items():
            browser.open(f"{url}/{name}")
            browser.wait(ready)
            time.sleep(2)  # charts draw themselves by and by
            browser.screenshot(out / f"visualdl-{name}.png", whole=False)


def ask_page(browser, url, picture, question):
    """Put a question to the page as a person does and wait for the answer."""
    browser.open(url)
    browser.wait("document.querySelector('#model').textContent !== 'the model'")
    browser.choose_file("#picture", picture)
    browser.wait("!document.querySelector('#canvas').hidden")
    browser.type("#question", question)
    browser.run("document.querySelector('#ask').click()")
    browser.wait("document.querySelector('#ask').disabled === false && document.querySelector('#answer').textContent")
    return browser.run("document.querySelector('#answer').textContent")


def shoot_server(browser, model, picture, question, out):
    """The page of a server, after a question, on a desk and on a phone."""
    port = free_port()
    command = [sys.executable, "-m", "r1_mllm", "serve", "--model_path", str(model), "--port", str(port), "--web"]
    command += ["--default_max_tokens", "64"]
    with running(command, f"http://127.0.0.1:{port}/health") as url:
        for name, size in (("desk", DESK), ("phone", PHONE)):
            browser.size(*size, phone=name == "phone")
            answer = ask_page(browser, url.removesuffix("health"), picture, question)
            browser.screenshot(out / f"web-{name}.png")
    return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--model_path", type=Path)
    parser.add_argument("--picture", type=Path, default=ROOT / "tests/golden/cases/e2e/images/a.png")
    parser.add_argument("--question", default="Where is the red square?")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run = given.run or made_run(given.out / "run")
    with Browser() as browser:
        shoot_report(browser, page.write_report(run), given.out)
        shoot_visualdl(browser, run / "logs", given.out)
        shoot_server(browser, given.model_path or given.run or TINY, given.picture, given.question, given.out)
    print("\n".join(sorted(str(path) for path in given.out.glob("*.png"))))


if __name__ == "__main__":
    main()
