# SPDX-License-Identifier: Apache-2.0
"""Renders one chat template in a process of its own: `python template_worker.py`, JSON lines in, JSON lines out.

A template comes with a checkpoint, from strangers.  The immutable sandbox keeps it from running code; the limits set
here (memory, processor seconds, characters) keep it from taking the machine.  Imports nothing of this package.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import sys
from typing import Any

import jinja2
from jinja2 import ext, sandbox

MEMORY_BYTES = 400_000_000
CPU_SECONDS = 2.0
MAX_CHARS = 4_000_000


class TooSlow(Exception):
    """The template used up its processor time."""


class Generation(ext.Extension):
    """Renders `{% generation %}...{% endgeneration %}`, which marks the assistant's words, as what it encloses."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        """Replace the tag by its body."""
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)  # jinja's own escapes <, > and &


def _stop(*_: Any) -> None:
    raise TooSlow(f"took more than {CPU_SECONDS:g} s")


def compile_template(source: str) -> jinja2.Template:
    """Compile in the immutable sandbox with the functions chat templates expect."""
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment.from_string(source)


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """Render within the limits."""
    pieces, num_chars = [], 0
    for piece in template.generate(**variables):
        num_chars += len(piece)
        if num_chars > MAX_CHARS:
            raise jinja2.TemplateError(f"writes more than {MAX_CHARS} characters")
        pieces.append(piece)
    return "".join(pieces)


def answer(request: dict[str, Any], state: dict[str, jinja2.Template]) -> dict[str, str]:
    """Compile a {"source": ...} or render a {"variables": ...}; {"text": ...} or {"error": ...}."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        if "source" in request:
            state["template"] = compile_template(request["source"])
            return {"text": ""}
        return {"text": render(state["template"], request["variables"])}
    except (jinja2.TemplateError, TooSlow, MemoryError, RecursionError, ArithmeticError) as error:
        return {"error": str(error) or f"{type(error).__name__}, its limit is {MEMORY_BYTES // 1_000_000} MB"}
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer requests until the input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    signal.signal(signal.SIGPROF, _stop)
    state: dict[str, jinja2.Template] = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), state)), flush=True)


if __name__ == "__main__":
    main()
