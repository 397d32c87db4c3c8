# SPDX-License-Identifier: Apache-2.0
"""Settings of a judge model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgeConfig:
    judge_url: str | None = None
    """Address of an OpenAI-compatible service, such as http://localhost:8000/v1; None: no judge."""
    judge_model: str = ""
    """Name the service knows the judge by."""
    judge_prompt: str | None = None
    """Text file that replaces the built-in request; {question}, {reference} and {answer} are filled in."""
    judge_images: bool = False
    """Send the pictures too."""
    judge_threads: int = 8
    """Questions asked side by side."""
    judge_timeout: float = 60.0
    """Seconds one reply may take."""
    judge_retries: int = 5
    """Further tries after a busy or broken reply, with growing waits."""
    judge_max_tokens: int = 256
    """Tokens a reply may have."""

    def __post_init__(self) -> None:
        if self.judge_url is None:
            return
        if not self.judge_url.startswith(("http://", "https://")):
            raise ValueError(f"judge_url {self.judge_url!r}: expected http://... or https://...")
        if not self.judge_model:
            raise ValueError("judge_url needs judge_model, the name the service knows the judge by")
        if self.judge_threads < 1 or self.judge_retries < 0 or self.judge_timeout <= 0:
            raise ValueError("judge_threads must be at least 1, judge_retries 0 and judge_timeout above 0")
