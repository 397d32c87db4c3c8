# SPDX-License-Identifier: Apache-2.0
"""A server on this machine with the small golden checkpoint, asked by the real `openai` client."""

import base64
import json
import threading
import time
from pathlib import Path

import httpx
import pytest

CASE = Path(__file__).resolve().parents[1] / "golden/cases/e2e"
NAME = "small"


def data_url(name):
    kind = "jpeg" if name.endswith("jpg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode((CASE / 'images' / name).read_bytes()).decode()}"


def conversations():
    return json.loads((CASE / "case.json").read_text(encoding="utf-8"))["conversations"]


def as_request(conversation):
    """A golden conversation as OpenAI's messages."""
    pictures = iter(conversation["images"])
    messages = []
    for message in conversation["messages"]:
        content = message["content"]
        if not isinstance(content, str):
            content = [_part(part, pictures) for part in content]
        messages.append({"role": message["role"], "content": content})
    return messages


def _part(part, pictures):
    if part["type"] == "text":
        return part
    return {"type": "image_url", "image_url": {"url": data_url(next(pictures))}}


class Running:
    """A server in a thread of this process."""

    def __init__(self, **settings):
        from r1_mllm.config.serving import ServeConfig
        from r1_mllm.serving.server import make

        chosen = {"model_path": str(CASE / "checkpoint"), "served_model_name": NAME, "port": 0, **settings}
        self.service = make(ServeConfig(**chosen))
        self.url = self.service.url
        self.root = self.url.removesuffix("/v1")
        self.thread = threading.Thread(target=self.service.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.service.server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    @property
    def counts(self):
        return self.service.scheduler.counts

    def post(self, body=None, content=None, headers=None, timeout=30):
        content = json.dumps(body).encode() if content is None else content
        headers = {"Content-Type": "application/json", **(headers or {})}
        return httpx.post(f"{self.url}/chat/completions", content=content, headers=headers, timeout=timeout)

    def stop(self):
        self.service.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def server():
    pytest.importorskip("starlette", reason='the server is not installed: pip install "r1_mllm[serve]"')
    running = Running(allow_image_root=(str(CASE / "images"),), idle_seconds=1.0, web=True)
    yield running
    running.stop()


@pytest.fixture
def start():
    pytest.importorskip("starlette", reason='the server is not installed: pip install "r1_mllm[serve]"')
    running = []

    def begin(**settings):
        running.append(Running(**settings))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def client(server):
    openai = pytest.importorskip("openai", reason="the openai client is not installed: pip install openai")
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def question():
    content = [
        {"type": "image_url", "image_url": {"url": data_url("a.png")}},
        {"type": "text", "text": "How many?"},
    ]
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="session")
def golden_requests():
    return [(conversation, as_request(conversation)) for conversation in conversations()]
