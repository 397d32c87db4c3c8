# SPDX-License-Identifier: Apache-2.0
"""Options every test folder shares; Paddle's environment is set before anything imports it."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from r1_mllm import runtime

DEFAULT_ROOT = Path(__file__).parent / "golden" / "cases"

runtime.prepare()


def pytest_addoption(parser):
    parser.addoption("--golden-root", default=str(DEFAULT_ROOT), help="folder of golden cases")


@pytest.fixture(autouse=True)
def logging_as_before():
    """Undo what programs run within this process do to logging (tests/docs runs scripts up to their flags)."""
    manager, logger = logging.root.manager, logging.getLogger("r1_mllm")
    disabled, level = manager.disable, logger.level
    yield
    logging.disable(disabled)
    logger.setLevel(level)


@pytest.fixture(scope="session")
def ask():
    """Encode questions for the end-to-end golden checkpoint: ask(text, *files of its pictures) -> Prompt."""
    from r1_mllm.processing.prompt import Processor

    folder = DEFAULT_ROOT / "e2e"
    processor = Processor.from_pretrained(folder / "checkpoint")

    def encode(text, *images):
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
        return processor.encode([{"role": "user", "content": content}], [str(folder / "images" / i) for i in images])

    return encode


class Service:
    """Replies by a function of (number of the request, its body); keeps what it was asked."""

    def __init__(self, reply):
        self.asked, self.headers = [], []
        lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    service.asked.append(body)
                    service.headers.append((self.path, dict(self.headers)))
                    number = len(service.asked)
                status, headers, text = reply(number, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request, client_address):  # the client of the slow reply has gone
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def serve():
    """Start HTTP servers on this machine: reply(number, body) -> (status, headers, text)."""
    running = []

    def start(reply):
        running.append(Service(reply))
        return running[-1]

    yield start
    for service in running:
        service.server.shutdown()
        service.server.server_close()
