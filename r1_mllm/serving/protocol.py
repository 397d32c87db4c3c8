# SPDX-License-Identifier: Apache-2.0
"""HTTP connections that may not dawdle: uvicorn's protocol, with limits on their number and the wait for a header."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ApiError


def protocol(max_connections: int, idle_seconds: float) -> type[H11Protocol]:
    """Make the protocol class of a server with these limits.

    Uvicorn closes a kept connection that stays silent, but waits for ever for the rest of a first or half-sent header.
    """

    class Impatient(H11Protocol):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                _refuse(transport)
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Let the time run while a header is awaited; bytes of it do not wind the clock back."""
            if self.conn.their_state is not h11.IDLE:
                self._unwatch()
            elif self.waiting is None:
                self.waiting = self.loop.call_later(idle_seconds, self._give_up)

        def _unwatch(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

        def _give_up(self) -> None:
            self.waiting = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.transport.close()

    return Impatient


def _refuse(transport: asyncio.Transport) -> None:
    body = json.dumps(ApiError(503, "too many connections").body()).encode()
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    transport.write(head.encode() + b"Retry-After: 1\r\nConnection: close\r\n\r\n" + body)
    transport.close()
