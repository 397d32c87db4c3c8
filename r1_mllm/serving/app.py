# SPDX-License-Identifier: Apache-2.0
"""The addresses of the server; everything that waits does so without holding up the others."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from importlib import resources

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ..config.serving import ServeConfig
from ..processing.prompt import Processor
from ..records import Prompt
from ..rollout.live import Sampling, live_rows
from .asks import ChatAsk, chat_ask, read_json
from .errors import ApiError
from .guard import Bodies, Guard, error_response
from .prompts import Reader
from .replies import DONE, Reply
from .scheduler import Piece, Scheduler, Task
from .text import Writer

log = logging.getLogger(__name__)
PREPARING_AT_ONCE = 2
"""Requests whose pictures are decoded side by side; each may take hundreds of megabytes."""


class Server:
    """The application: what it answers with, and what it has counted."""

    def __init__(
        self, scheduler: Scheduler, processor: Processor, name: str, config: ServeConfig, keys: Sequence[bytes] = ()
    ) -> None:
        """Args: name: the model's, as clients ask for it.  keys: digests of those let in; none lets everybody in."""
        self.scheduler, self.processor, self.name, self.config = scheduler, processor, name, config
        self.reader, self.bodies = Reader(processor, config), Bodies(config)
        self.started = int(time.time())
        self.statuses: Counter[int] = Counter()
        self._preparing: anyio.CapacityLimiter | None = None
        routes = [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        if config.web:
            routes.append(Route("/", self.page))
        handlers = {ApiError: self._api_error, HTTPException: self._http_error, Exception: self._bug}
        self.app = Guard(Starlette(routes=routes, exception_handlers=handlers), keys, config.body_seconds)

    async def health(self, request: Request) -> Response:
        """Whether requests will be answered; asks nothing of the model."""
        alive = self.scheduler.alive
        state = {"status": "ok" if alive else "stopped", "model": self.name}
        numbers = {"running": self.scheduler.num_running, "waiting": self.scheduler.num_waiting}
        return JSONResponse({**state, **numbers}, 200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        """Counts in Prometheus' text format."""
        counts = self.scheduler.counts
        totals = {
            "requests_finished": counts.finished,
            "requests_cancelled": counts.cancelled,
            "requests_failed": counts.failed,
            "requests_refused": counts.refused,
            "prompt_tokens": counts.prompt_tokens,
            "generated_tokens": counts.generated_tokens,
            "decode_steps": counts.steps,
            "request_seconds": counts.seconds,
        }
        lines = [
            f"# TYPE r1_mllm_{name}_total counter\nr1_mllm_{name}_total {value:g}" for name, value in totals.items()
        ]
        gauges = {"requests_running": self.scheduler.num_running, "requests_waiting": self.scheduler.num_waiting}
        lines += [f"# TYPE r1_mllm_{name} gauge\nr1_mllm_{name} {value}" for name, value in gauges.items()]
        lines.append("# TYPE r1_mllm_responses_total counter")
        lines += [f'r1_mllm_responses_total{{status="{code}"}} {n}' for code, n in sorted(self.statuses.items())]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The one model there is."""
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def model(self, request: Request) -> Response:
        """What is known of a model."""
        if request.path_params["name"] != self.name:
            raise ApiError(404, f"no such model here; this is {self.name!r}", "model_not_found", "model")
        return JSONResponse(self._about())

    def _about(self) -> dict:
        length = self.config.max_prompt_length + self.config.max_tokens_limit
        own = {"id": self.name, "object": "model", "created": self.started, "owned_by": "r1_mllm"}
        return {**own, "max_model_len": length}

    async def page(self, request: Request) -> Response:
        """A page to try the model in a browser."""
        text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": PAGE_POLICY})

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        self.scheduler.check_room()
        try:
            body = await self.bodies.read(request)
        except ClientDisconnect:
            return self._counted(Response(status_code=400))
        if self._preparing is None:
            self._preparing = anyio.CapacityLimiter(PREPARING_AT_ONCE)
        ask, prompt = await anyio.to_thread.run_sync(self._prepared, body, limiter=self._preparing)
        task, told = self._task(ask, prompt)
        extra = {"views": [vars(view) for view in prompt.views]} if self.config.web else {}  # the page draws boxes
        reply = Reply(self.name, ask.n, len(prompt.ids), self.processor.tokenizer, ask.num_top is not None, extra)
        self.scheduler.submit(task)
        if ask.stream:
            chunks = self._chunks(task, told, reply, ask.include_usage)
            return self._counted(StreamingResponse(chunks, media_type="text/event-stream", headers=NO_CACHE))
        return self._counted(await self._whole(request, task, told, reply))

    def _prepared(self, body: bytes) -> tuple[ChatAsk, Prompt]:
        ask = chat_ask(read_json(body), self.name, self.config)
        return ask, self.reader.prompt(ask)

    def _task(self, ask: ChatAsk, prompt: Prompt) -> tuple[Task, asyncio.Queue]:
        """A task whose pieces arrive in the queue."""
        loop, told = asyncio.get_running_loop(), asyncio.Queue()
        seed = secrets.randbits(63) if ask.seed is None else ask.seed % 2**63
        if ask.temperature == 0:
            sampling = Sampling(0.0)
        else:
            sampling = Sampling(ask.temperature, ask.top_p, ask.top_k, ask.min_p)
        rows = live_rows(ask.n, seed, ask.max_tokens, sampling, ask.num_top)
        writers = [Writer(self.processor.tokenizer, prompt.opening, ask.stops) for _ in rows]

        def tell(news: list[Piece] | ApiError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(told.put_nowait, news)

        return Task(prompt, rows, writers, tell, ask.stream), told

    async def _whole(self, request: Request, task: Task, told: asyncio.Queue, reply: Reply) -> Response:
        """Wait for all pieces, or until the client has gone."""
        news: list[Piece] | ApiError | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, request, group.cancel_scope)
                news = await told.get()
                group.cancel_scope.cancel()
        finally:
            if news is None:
                self.scheduler.cancel(task)
        if news is None:
            return Response(status_code=499)
        if isinstance(news, ApiError):
            return error_response(news)
        return JSONResponse(reply.whole(news))

    async def _chunks(self, task: Task, told: asyncio.Queue, reply: Reply, include_usage: bool) -> AsyncIterator[bytes]:
        left = len(task.rows)
        try:
            for chunk in reply.opening():
                yield chunk
            while left:
                news = await told.get()
                if isinstance(news, ApiError):
                    yield reply.failure(news)
                    break
                left -= sum(piece.finish is not None for piece in news)
                yield b"".join(reply.chunk(piece) for piece in news)
            if include_usage and not left:
                yield reply.usage_chunk()
            yield DONE
        finally:
            if left:
                self.scheduler.cancel(task)

    def _counted(self, response: Response) -> Response:
        self.statuses[response.status_code] += 1
        return response

    async def _api_error(self, request: Request, error: ApiError) -> Response:
        return self._counted(error_response(error))

    async def _http_error(self, request: Request, error: HTTPException) -> Response:
        response = error_response(ApiError(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return self._counted(response)

    async def _bug(self, request: Request, error: Exception) -> Response:
        return self._counted(error_response(ApiError(500, "an error of the server; its log says more")))


PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'"
)
NO_CACHE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def _until_gone(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
