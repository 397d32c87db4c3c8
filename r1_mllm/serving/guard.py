# SPDX-License-Identifier: Apache-2.0
"""What every request passes first: keys, the size of the body and the time it may take, and errors in one shape."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..config.serving import ServeConfig
from .errors import ApiError

OPEN_PATHS = ("/health", "/")
BODIES_AT_ONCE = 16
"""Bodies of full size that may be in memory together."""


class Guard:
    """ASGI layer around the application: lets in who has a key, and gives up on readers that do not read."""

    def __init__(self, app, keys: Sequence[bytes], seconds: float) -> None:
        self.app, self.keys, self.seconds = app, keys, seconds

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        if self.keys and scope["path"] not in OPEN_PATHS and not self._knows(scope["headers"]):
            await error_response(ApiError(401, "a valid API key is needed", "invalid_api_key"))(scope, receive, send)
            return

        async def hurried(message) -> None:
            with anyio.fail_after(self.seconds):
                await send(message)

        await self.app(scope, receive, hurried)

    def _knows(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Compare with every key in constant time."""
        given = next((value for name, value in headers if name == b"authorization"), b"")
        word, _, key = given.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = [hmac.compare_digest(digest, known) for known in self.keys]
        return any(found) and word.lower() == b"bearer"


def error_response(error: ApiError) -> JSONResponse:
    """An error as a reply; the connection ends where the body may still be on its way."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status in (401, 408, 411, 413, 415, 429):
        headers["Connection"] = "close"
    return JSONResponse(error.body(), error.status, headers)


class Bodies:
    """Reads bodies within limits of size, time and memory in all."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.bytes = 0
        """Declared by the requests that are being read."""

    async def read(self, request: Request) -> bytes:
        """The body of a request; ApiError 408, 411, 413, 415 or 429."""
        size = self._size(request)
        if self.bytes + size > BODIES_AT_ONCE * self.config.max_body_bytes:
            raise ApiError(429, "too many large requests at once", "busy", None, 1)
        self.bytes += size
        try:
            with anyio.fail_after(self.config.body_seconds):
                return b"".join([chunk async for chunk in request.stream()])
        except TimeoutError as error:
            seconds = f"{self.config.body_seconds:g}"
            raise ApiError(408, f"the body did not arrive within {seconds} seconds") from error
        finally:
            self.bytes -= size

    def _size(self, request: Request) -> int:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a page of another site can send anything else without being asked first
            raise ApiError(415, "Content-Type must be application/json")
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise ApiError(411, "Content-Length is needed")
        if len(length) > 12 or int(length) > self.config.max_body_bytes:
            raise ApiError(413, f"the body exceeds the limit of {self.config.max_body_bytes} bytes")
        return int(length)
