# SPDX-License-Identifier: Apache-2.0
"""Which waiting prompts join next: the longest expected first, and only what fits the memory for keys and values.

What a row samples follows from its own random numbers, so none of this changes a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.config import TextArch
from ..runtime import Stop
from .cache import COLUMNS, padded

BYTES_PER_NUMBER = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class CacheBudget:
    """Memory for keys and values of prompts and of completions as long as they may become."""

    limit: int | None
    """Bytes; None: no limit."""
    token_bytes: int
    """Keys and values of one token in all layers."""
    length: int
    """Most tokens of a completion."""
    block: int
    """Prompts take a multiple of so many places."""

    @classmethod
    def of(cls, arch: TextArch, dtype: str, length: int, megabytes: int | None, block: int) -> CacheBudget:
        """Give the budget of a decoder whose cache is kept in `dtype`; 1 MB is 2**20 bytes."""
        per_layer = 2 * arch.num_key_value_heads * arch.head_dim * BYTES_PER_NUMBER[dtype]
        limit = None if megabytes is None else int(megabytes * 2**20)
        return cls(limit, arch.num_hidden_layers * per_layer, length, block)

    @property
    def columns(self) -> int:
        """Places a row's tail grows to."""
        return padded(self.length, COLUMNS)

    def needed(self, prompt_lengths: Sequence[int], samples: int) -> int:
        """Bytes of groups with these prompts and `samples` rows each once their rows are as long as they may become."""
        prompt = padded(max(prompt_lengths, default=0), self.block)
        return len(prompt_lengths) * (prompt + samples * self.columns) * self.token_bytes

    def fits(self, prompt_lengths: Sequence[int], samples: int) -> bool:
        """Say whether such groups may be decoded together."""
        return self.limit is None or self.needed(prompt_lengths, samples) <= self.limit

    def rows_of(self, prompt_length: int, wanted: int) -> int:
        """How many of the `wanted` rows of one prompt may be decoded together; none is an error that says what is."""
        if self.limit is None:
            return wanted
        rows = (self.limit // self.token_bytes - padded(prompt_length, self.block)) // self.columns
        if rows < 1:
            least = -(-self.needed([prompt_length], 1) // 2**20)
            raise Stop(
                f"rollout_cache_mb {self.limit // 2**20}: one row of a prompt of {prompt_length} tokens and a "
                f"completion of up to {self.length} needs {least} MB; raise it, or lower max_completion_length, or "
                "max_pixels for pictures of fewer tokens"
            )
        return min(rows, wanted)


def by_expected_length(expected: Sequence[float | None]) -> list[int]:
    """Order prompts so that the longest completions begin first; unknown ones count as the mean of the known."""
    known = [length for length in expected if length is not None]
    mean = sum(known) / len(known) if known else 0.0
    return sorted(range(len(expected)), key=lambda i: -(mean if expected[i] is None else expected[i]))
