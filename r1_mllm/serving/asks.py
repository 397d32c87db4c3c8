# SPDX-License-Identifier: Apache-2.0
"""The body of a chat request, checked field by field; what would change the answer and is not supported is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.serving import ServeConfig
from .errors import ApiError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 512
MAX_STOPS, MAX_STOP_CHARS = 16, 256
MAX_TOP_LOGPROBS = 20
REFUSED = ("tools", "functions", "tool_choice", "function_call", "logit_bias", "audio", "guided_json", "guided_regex")
"""Fields that must be absent, null or empty."""
NEUTRAL = {"frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1, "best_of": 1}
"""Fields that may only say what happens anyway."""
CHARS_PER_TOKEN = 32
"""Text longer than this many characters per permitted token is refused before it is read as tokens."""


@dataclass(frozen=True)
class Picture:
    """An `image_url`: content that came inside the request, or the address of a file."""

    url: str
    where: str
    """messages[i].content[j]."""


@dataclass(frozen=True)
class ChatAsk:
    """A request that is well formed; its pictures are not read yet."""

    messages: Sequence[Mapping[str, Any]]
    """In the template's layout: text parts, and {"type": "image"} for each picture."""
    pictures: Sequence[Picture]
    n: int
    seed: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_tokens: int
    stops: tuple[str, ...]
    num_top: int | None
    """Alternatives per token in `logprobs`; None: no logprobs."""
    stream: bool
    include_usage: bool


def read_json(body: bytes) -> dict[str, Any]:
    """Read a request's body; ApiError 400 when it is not a JSON object."""
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {_short(error)}") from error
    if not isinstance(content, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_kind(content)}")
    return content


def chat_ask(body: Mapping[str, Any], model_name: str, config: ServeConfig) -> ChatAsk:
    """Check a request against the limits; ApiError names the field and what it must be."""
    if body.get("model") is None:
        raise _wrong("model", "is missing")
    if body["model"] != model_name:
        asked = body["model"][:100] if isinstance(body["model"], str) else _kind(body["model"])
        raise ApiError(404, f"no model {asked!r} here; this is {model_name!r}", "model_not_found", "model")
    for name in REFUSED:
        if body.get(name) not in (None, [], {}, "none"):
            raise _wrong(name, "is not supported")
    for name, value in NEUTRAL.items():
        if body.get(name) not in (None, value):
            raise _wrong(name, f"is not supported other than {value}")
    messages, pictures = _messages(body.get("messages"), config)
    stream = _flag(body, "stream")
    return ChatAsk(
        messages,
        pictures,
        n=_whole(body, "n", 1, 1, config.max_n),
        seed=_whole(body, "seed", None, -(2**63), 2**64 - 1),
        temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
        top_p=_number(body, "top_p", 1.0, 0.0, 1.0),
        top_k=max(0, _whole(body, "top_k", 0, -1, 2**31)),
        min_p=_number(body, "min_p", 0.0, 0.0, 1.0),
        max_tokens=_max_tokens(body, config),
        stops=_stops(body.get("stop")),
        num_top=_num_top(body),
        stream=stream,
        include_usage=stream and _include_usage(body.get("stream_options")),
    )


def _messages(messages: Any, config: ServeConfig) -> tuple[list[dict[str, Any]], list[Picture]]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise _wrong("messages", f"must be a list of 1 to {MAX_MESSAGES} messages")
    found, pictures = [], []
    num_chars = 0
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise _wrong(f"{where}.role", f"must be one of {', '.join(ROLES)}")
        content = _content(message.get("content"), where, ROLES[role], pictures)
        num_chars += sum(len(part.get("text", "")) for part in content)
        found.append({"role": ROLES[role], "content": content})
    if len(pictures) > config.max_images:
        raise _wrong("messages", f"hold {len(pictures)} pictures; the limit is {config.max_images}")
    if num_chars > CHARS_PER_TOKEN * config.max_prompt_length:
        raise too_long(f"at least {num_chars // CHARS_PER_TOKEN}", config)
    return found, pictures


def too_long(num_tokens: Any, config: ServeConfig) -> ApiError:
    """The error for a prompt over the limit."""
    message = f"the prompt takes {num_tokens} tokens; the limit is {config.max_prompt_length}"
    return ApiError(400, message, "context_length_exceeded", "messages")


def _content(content: Any, where: str, role: str, pictures: list[Picture]) -> list[dict[str, Any]]:
    where = f"{where}.content"
    if isinstance(content, str):
        return [{"type": "text", "text": _text(content, where)}]
    if content is None and role == "assistant":
        return []
    if not isinstance(content, list) or not content:
        raise _wrong(where, "must be a text or a list of parts")
    parts = []
    for j, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            parts.append({"type": "text", "text": _text(part.get("text"), f"{where}[{j}].text")})
        elif kind == "image_url" and role == "user":
            parts.append({"type": "image"})
            pictures.append(_picture(part, f"{where}[{j}]"))
        elif kind == "image_url":
            raise _wrong(f"{where}[{j}]", "pictures belong to messages of the user")
        else:
            raise _wrong(f"{where}[{j}].type", "must be text or image_url")
    return parts


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise _wrong(where, f"must be a text, not {_kind(text)}")
    if any("\ud800" <= letter <= "\udfff" for letter in text) if not text.isascii() else False:
        raise _wrong(where, "holds half of a surrogate pair")
    return text


def _picture(part: Mapping[str, Any], where: str) -> Picture:
    address = part.get("image_url")
    url = address.get("url") if isinstance(address, dict) else address
    if not isinstance(url, str):
        raise _wrong(f"{where}.image_url", 'must be {"url": "data:image/...;base64,..."}')
    return Picture(url, where)


def _whole(body: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, f"must be a whole number from {low} to {high}")
    return value


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    sound = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not sound or not math.isfinite(value):
        raise _wrong(name, f"must be a number from {low:g} to {high:g}")
    return float(value)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "must be true or false")
    return bool(value)


def _max_tokens(body: Mapping[str, Any], config: ServeConfig) -> int:
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    limit = config.max_tokens_limit
    return min(_whole(body, name, config.default_max_tokens, 1, 2**31 if config.clamp_max_tokens else limit), limit)


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    sound = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not sound or not all(isinstance(text, str) and 1 <= len(text) <= MAX_STOP_CHARS for text in stops):
        raise _wrong("stop", f"must be a text or up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters")
    return tuple(stops)


def _num_top(body: Mapping[str, Any]) -> int | None:
    num = _whole(body, "top_logprobs", None, 0, MAX_TOP_LOGPROBS)
    if _flag(body, "logprobs"):
        return num or 0
    if num:
        raise _wrong("top_logprobs", "needs logprobs true")
    return None


def _include_usage(options: Any) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise _wrong("stream_options", "must be an object")
    return _flag(options, "include_usage")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _wrong(param: str, problem: str) -> ApiError:
    return ApiError(400, f"{param} {problem}", param=param)


def _kind(value: Any) -> str:
    names = {"dict": "object", "list": "list", "str": "text", "NoneType": "null", "bool": "truth value"}
    return names.get(type(value).__name__, "number")


def _short(error: Exception) -> str:
    return str(error)[:200] if not isinstance(error, UnicodeDecodeError) else "not UTF-8"
