# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm serve`: what must be there before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from .. import runtime
from ..config.flags import parse
from ..config.serving import ServeConfig
from ..runtime import Stop

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
    from .server import serve  # after the checks: it imports them all

    serve(config)
