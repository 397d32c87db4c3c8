# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm serve`: load a model, listen, and stop without cutting anybody off."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from .. import runtime
from ..config.flags import parse
from ..config.serving import ServeConfig
from ..runtime import Stop
from .keys import read_keys

INSTALL = 'pip install "r1_mllm[serve]"'


def main(argv: Sequence[str]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    config = parse(ServeConfig, argv, "r1-mllm serve", "Answer chat requests over HTTP, as OpenAI's API does.")
    try:
        import starlette  # noqa: F401  optional: only the server needs it
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise Stop(f"serving needs {error.name}: {INSTALL}") from error
    runtime.require_paddle()
    runtime.check_device()
    serve(config)


def serve(config: ServeConfig) -> None:
    """Load the model and answer requests; returns when the server has been told to stop and is done."""
    import uvicorn

    from .app import Server
    from .protocol import protocol
    from .scheduler import Scheduler

    _check(config)
    keys = read_keys(config.api_key_file)
    listening = _listen(config)
    loaded = _load(config)
    scheduler = Scheduler(loaded.engine, config.max_batch_rows, config.max_batch_tokens, config.queue_size)
    name = config.served_model_name or Path(config.model_path).resolve().name
    server = Server(scheduler, loaded.processor, name, config, keys)
    settings = uvicorn.Config(
        server.app,
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
    scheduler.start()
    host, port = listening.getsockname()[:2]
    print(f"{name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1", flush=True)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it is done
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
        scheduler.stop()
        logging.getLogger(__name__).info("stopped after %d requests", scheduler.counts.finished)


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


def _load(config: ServeConfig):
    from ..config import EvalConfig
    from ..evaluation.load import load
    from ..models.weights import resolve

    asked = EvalConfig(
        model_path=config.model_path,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        chat_template=config.chat_template,
    )
    try:
        return load(resolve(config.model_path), asked)
    except (ValueError, OSError) as error:
        raise Stop(str(error), runtime.MODEL) from error
