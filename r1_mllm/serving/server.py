# SPDX-License-Identifier: Apache-2.0
"""A model, its scheduler and the HTTP server in front of them."""

from __future__ import annotations

import logging
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ..config.serving import ServeConfig
from ..evaluation.load import load_asked
from ..runtime import Stop
from .app import Server
from .keys import read_keys
from .protocol import protocol
from .scheduler import Scheduler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """A server that is ready to run."""

    server: uvicorn.Server
    listening: socket.socket
    scheduler: Scheduler
    name: str

    @property
    def url(self) -> str:
        """What clients take as their base URL."""
        host, port = self.listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    def run(self) -> None:
        """Serve until told to stop, and finish what is under way."""
        self.scheduler.start()
        try:
            self.server.run(sockets=[self.listening])
        finally:
            self.scheduler.stop()


def serve(config: ServeConfig) -> None:
    """Load the model and answer requests; returns when the server has been told to stop and is done."""
    service = make(config)
    service.listening.listen()  # who reads the line may connect at once
    print(f"{service.name} at {service.url}", flush=True)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it is done
    try:
        service.run()
    finally:
        signal.signal(signal.SIGTERM, before)
        log.info("stopped after %d requests", service.scheduler.counts.finished)


def make(config: ServeConfig) -> Service:
    """Take the port, then load the model."""
    _check(config)
    keys = read_keys(config.api_key_file)
    listening = _listen(config)
    loaded = load_asked(config)
    scheduler = Scheduler(loaded.engine, config.max_batch_rows, config.max_batch_tokens, config.queue_size)
    name = config.served_model_name or Path(config.model_path).resolve().name
    settings = uvicorn.Config(
        Server(scheduler, loaded.processor, name, config, keys).app,
        http=protocol(config.max_connections, config.idle_seconds),
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=max(1, round(config.idle_seconds)),
        timeout_graceful_shutdown=config.drain_seconds,
        h11_max_incomplete_event_size=32768,
    )
    return Service(uvicorn.Server(settings), listening, scheduler, name)


def _check(config: ServeConfig) -> None:
    absent = [folder for folder in config.allow_image_root if not Path(folder).is_dir()]
    if absent:
        raise Stop(f"--allow_image_root {absent[0]} is no folder")


def _listen(config: ServeConfig) -> socket.socket:
    """Take the port before the model is read, which may take minutes."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise Stop(f"--host {config.host} --port {config.port} cannot be listened at: {error.strerror}") from error
    return listening
