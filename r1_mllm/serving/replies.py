# SPDX-License-Identifier: Apache-2.0
"""Completions in the layout of OpenAI's chat API, whole or in chunks."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import ApiError
from .scheduler import Piece, Token
from .text import BROKEN

DONE = b"data: [DONE]\n\n"


def event(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


@dataclass
class Reply:
    """The reply to one request."""

    model: str
    n: int
    prompt_tokens: int
    tokenizer: Any
    with_logprobs: bool
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of a whole reply."""
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    num_tokens: dict[int, int] = field(default_factory=dict)
    """Completion -> tokens written."""

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A chat.completion of all pieces."""
        choices = []
        for index in range(self.n):
            own = [piece for piece in pieces if piece.index == index]
            self.num_tokens[index] = own[-1].num_tokens
            choices.append(
                {
                    "index": index,
                    "message": {"role": "assistant", "content": "".join(piece.text for piece in own), "refusal": None},
                    "logprobs": self._logprobs([token for piece in own for token in piece.tokens]),
                    "finish_reason": own[-1].finish,
                }
            )
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage(), **self.extra}

    def opening(self) -> Iterator[bytes]:
        """The first chunk of each completion: who speaks."""
        for index in range(self.n):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, piece: Piece) -> bytes:
        """A piece as a chunk."""
        self.num_tokens[piece.index] = piece.num_tokens
        delta = {"content": piece.text} if piece.text or piece.tokens else {}
        return self._chunk(piece.index, delta, self._logprobs(piece.tokens), piece.finish)

    def usage_chunk(self) -> bytes:
        """The chunk behind all others, with the token counts."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()})

    def failure(self, error: ApiError) -> bytes:
        """What went wrong after the first chunk."""
        return event(error.body())

    def usage(self) -> dict[str, int]:
        """Tokens read and written."""
        written = sum(self.num_tokens.values())
        total = self.prompt_tokens + written
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": total}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        content = [
            {**self._token(token.id, token.logprob), "top_logprobs": [self._token(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token])
        known = None if BROKEN in text else list(text.encode())  # a part of a character has no text
        return {"token": text, "logprob": logprob, "bytes": known}
