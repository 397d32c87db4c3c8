# SPDX-License-Identifier: Apache-2.0
"""Settings of `r1-mllm serve`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal


@dataclass(frozen=True)
class ServeConfig:
    """Everything `r1-mllm serve` can be told."""

    model_path: str
    """Checkpoint folder, adapter folder or hub id."""
    served_model_name: str | None = None
    """Name clients ask for; None: the last part of model_path."""
    host: str = "127.0.0.1"
    """Address to listen at; one that other machines reach needs api_key_file."""
    port: int = 8000
    """0 takes a free one; the first line of output names it."""
    api_key_file: str | None = None
    """File whose lines are the keys that are let in."""
    allow_image_root: tuple[str, ...] = ()
    """Folders that `file:` addresses of pictures may point into; none: pictures come inside the request only."""
    web: bool = False
    """Also show a page at / to try the model in a browser."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 on a GPU that has it; a CPU computes in float32."""
    attn_implementation: Literal["auto", "flash_attention_2", "eager"] = "auto"
    """As in training: auto and flash_attention_2 use flash kernels where GPU and dtype allow; eager never does."""
    min_pixels: int | None = None
    """Lower limit of a picture's area in pixels after resizing; None: the checkpoint's."""
    max_pixels: int | None = None
    """Upper limit of a picture's area after resizing; None: the checkpoint's."""
    chat_template: str | None = None
    """None: the checkpoint's own; else generic, dialogue, r1_zero or a .jinja file."""
    max_batch_rows: int = 32
    """Completions decoded together; waiting requests join as there is room."""
    max_batch_tokens: int = 524_288
    """Tokens of their key-value cache, prompts and the most they may write."""
    queue_size: int = 32
    """Requests that may wait for room; the next one is told to come back (status 429)."""
    max_prompt_length: int = 8192
    """Tokens, visual ones included."""
    max_tokens_limit: int = 4096
    """Most tokens a request may ask for."""
    clamp_max_tokens: bool = False
    """Give a request that asks for more as many, instead of an error: benchmarks ask for 49152 by habit."""
    default_max_tokens: int = 1024
    """Tokens for a request that does not say."""
    max_n: int = 16
    """Most completions of one request."""
    max_images: int = 8
    """Pictures of one request."""
    max_image_px: int = 16_000_000
    """Area of a picture as sent; larger ones are refused before they are decoded."""
    max_body_mib: float = 20.0
    """Size of a request."""
    max_connections: int = 256
    """Connections open at a time; a further one is closed."""
    idle_seconds: float = 5.0
    """A connection that sends no whole request header for so long is closed."""
    body_seconds: float = 30.0
    """Time to send a request, and to take in a part of the reply."""
    drain_seconds: int = 30
    """After SIGTERM, time for the requests under way."""

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ValueError("; ".join(problems))

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a request."""
        return int(self.max_body_mib * 2**20)


_AT_LEAST_ONE = (
    *("max_batch_rows", "max_batch_tokens", "queue_size", "max_prompt_length", "max_tokens_limit"),
    *("default_max_tokens", "max_n", "max_image_px", "max_body_bytes", "max_connections"),
)


def _problems(config: ServeConfig) -> Iterator[str]:
    for name in _AT_LEAST_ONE:
        if getattr(config, name) < 1:
            yield f"{name} {getattr(config, name)}: must be at least 1"
    for name in ("idle_seconds", "body_seconds", "drain_seconds"):
        if getattr(config, name) <= 0:
            yield f"{name} {getattr(config, name)}: must be above 0"
    if config.max_n > config.max_batch_rows:
        yield f"max_n {config.max_n}: must not exceed max_batch_rows {config.max_batch_rows}"
    if config.default_max_tokens > config.max_tokens_limit:
        yield f"default_max_tokens {config.default_max_tokens}: must not exceed max_tokens_limit"
    if not 0 <= config.port <= 65535:
        yield f"port {config.port}: must be 0 to 65535"
    if config.api_key_file is None and not _is_loopback(config.host):
        yield f"host {config.host} is open to other machines: give --api_key_file, or --host 127.0.0.1"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
