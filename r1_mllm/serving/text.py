# SPDX-License-Identifier: Apache-2.0
"""Tokens become text that may be shown: whole characters only, and nothing that may turn out to be a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"


class Writer:
    """One completion's text, piece by piece; the pieces together are what decoding it at once would give."""

    def __init__(self, tokenizer: Any, opening: str = "", stops: Sequence[str] = ()) -> None:
        """Args: opening: written before the first token.  stops: end the text, and are no part of it."""
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []
        self._held, self._ready = "", opening
        self.stopped = False
        """By a stop string."""

    def feed(self, ids: Sequence[int], last: bool) -> str:
        """Take tokens in and return what can be shown; `last`: no more will come."""
        for i, token in enumerate(ids):
            if self.stopped:
                break
            self._take(token, last and i == len(ids) - 1)
        if last and not ids and not self.stopped:
            self._decode()
        if last and not self.stopped:
            self._ready, self._held = self._ready + self._held, ""
        ready, self._ready = self._ready, ""
        return ready

    def _take(self, token: int, last: bool) -> None:
        self._ids.append(token)
        if not last and self._tokenizer.decode(self._ids, skip_special_tokens=True).endswith(BROKEN):
            return  # in the middle of a character
        self._decode()

    def _decode(self) -> None:
        self._held += self._tokenizer.decode(self._ids, skip_special_tokens=True)
        self._ids = []
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._ready += self._held[: min(found)]
            self._held, self.stopped = "", True
            return
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        border = len(self._held) - kept
        self._ready, self._held = self._ready + self._held[:border], self._held[border:]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
