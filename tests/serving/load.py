# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: `python tests/serving/load.py [load|slow|aborts|drain ...]`, each with its figures in one line.

The server runs in a process of its own.  For load and drain its model is a stand-in that takes 5 ms for a request and
one request at a time, so that the figures are those of everything around it; for the others it is the small golden
checkpoint.  Clients speak HTTP over bare sockets, which costs them little.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CHECKPOINT = Path(__file__).resolve().parents[1] / "golden/cases/e2e/checkpoint"
MODEL_SECONDS = 0.005
PARTS = ("load", "slow", "aborts", "drain")


def serve(stand_in: bool, *flags: str) -> None:
    """Be the server; returns when told to stop."""
    from r1_mllm.cli import main
    from r1_mllm.rollout.live import Live

    def advance(live: Live) -> bool:
        live._forget_waiting()
        if not live.waiting:
            return False
        time.sleep(MODEL_SECONDS)
        for row in live.waiting.popleft().rows:
            row.ids.append(40)
            row.done = True
        return True

    if stand_in:
        Live.advance = advance
    main(["serve", "--model_path", str(CHECKPOINT), "--served_model_name", "small", "--port", "0", *flags])


class Server:
    """The server's process; a context that ends it."""

    def __init__(self, stand_in: bool, *flags: str) -> None:
        kind = "stand-in" if stand_in else "golden"
        words = [sys.executable, __file__, "--serve", kind, *flags]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = next(text for text in self.process.stdout if " at http" in text)
        host, port = line.split("//")[1].split("/")[0].split(":")
        self.host, self.port = host, int(port)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    @property
    def finished(self) -> int:
        """Requests it says it has answered, now that it has ended."""
        self.log.seek(0)
        return int(re.search(r"stopped after (\d+) requests", self.log.read())[1])

    @property
    def num_files(self) -> int:
        """Open files of the server."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def processor_seconds(self) -> float:
        """Processor time it has used."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_mib(self) -> float:
        """Most memory it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def request(max_tokens: int = 1) -> bytes:
    """A chat request as it goes over the wire."""
    asked = {"model": "small", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": max_tokens}
    body = json.dumps(asked | {"temperature": 0}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Client:
    """One connection, opened again when the server closes it."""

    def __init__(self, server: Server) -> None:
        self.server, self.streams = server, None

    async def ask(self, message: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the reply; status 0 when the connection broke."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.server.host, self.server.port)
        reader, writer = self.streams
        try:
            writer.write(message)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
            body = await reader.readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, {}, b""
        if headers.get("connection") == "close":
            self.close()
        return int(head[0].split()[1]), headers, body

    def close(self) -> None:
        """End the connection."""
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


class Tally:
    """What clients got."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []

    def share(self, part: float) -> float:
        """Milliseconds that this part of the answered requests took at most."""
        kept = sorted(self.seconds)
        return 1000 * kept[min(len(kept) - 1, int(part * len(kept)))] if kept else float("nan")


async def _keep_asking(server: Server, tally: Tally, until: float) -> None:
    """Ask until the time is over, or the server has gone; who is sent away comes back when he was told to."""
    client = Client(server)
    while time.monotonic() < until:
        begun = time.monotonic()
        try:
            status, headers, _ = await client.ask(request())
        except ConnectionRefusedError:
            break
        tally.statuses[status] += 1
        if status == 200:
            tally.seconds.append(time.monotonic() - begun)
        elif status == 429:
            await asyncio.sleep(min(float(headers["retry-after"]), max(0.0, until - time.monotonic())))
        elif status == 0:
            break
    client.close()


async def load(clients: int, seconds: float) -> dict[str, object]:
    """Ask from all clients at once; health is asked for meanwhile."""
    with Server(True) as server:
        await _warm(server)
        cost = server.processor_seconds
        tally, begun = Tally(), time.monotonic()
        asking = [asyncio.create_task(_keep_asking(server, tally, begun + seconds)) for _ in range(clients)]
        slowest = await _health(server, begun + seconds)
        await asyncio.gather(*asking)
        took = time.monotonic() - begun
        return {
            "clients": clients,
            "seconds": round(took, 1),
            "answered_per_second": round(tally.statuses[200] / took, 1),
            "refused_per_second": round(tally.statuses[429] / took, 1),
            "other_statuses": sum(n for code, n in tally.statuses.items() if code not in (200, 429)),
            "median_ms": round(tally.share(0.5)),
            "p99_ms": round(tally.share(0.99)),
            "slowest_health_ms": round(1000 * slowest),
            "processor_ms_per_reply": round(1000 * (server.processor_seconds - cost) / tally.statuses.total(), 2),
            "peak_mib": round(server.peak_mib),
        }


async def _health(server: Server, until: float) -> float:
    """Ask for health four times a second; the longest answer in seconds."""
    client, slowest = Client(server), 0.0
    while time.monotonic() < until:
        begun = time.monotonic()
        status, _, _ = await client.ask(HEALTH)
        assert status == 200, status
        slowest = max(slowest, time.monotonic() - begun)
        await asyncio.sleep(0.25)
    client.close()
    return slowest


async def slow(connections: int, idle_seconds: float = 5.0) -> dict[str, object]:
    """Open connections that send a header letter by letter (slowloris), and ask for health and an answer meanwhile."""
    with Server(False, "--idle_seconds", str(idle_seconds)) as server, contextlib.ExitStack() as stack:
        await _warm(server)
        before = server.num_files
        address = (server.host, server.port)
        opened = [stack.enter_context(socket.create_connection(address)) for _ in range(connections)]
        for connection in opened:
            connection.sendall(b"POST /v1/chat/comp")
        dripping = [asyncio.create_task(_drip(connection)) for connection in opened]
        slowest = await _health(server, time.monotonic() + 0.6 * idle_seconds)
        client = Client(server)
        status, _, _ = await client.ask(request())
        client.close()
        begun = time.monotonic()
        while server.num_files > before and time.monotonic() - begun < 30:
            await asyncio.sleep(0.05)
        waited = time.monotonic() - begun
        for task in dripping:
            task.cancel()
        told = {"connections": connections, "slowest_health_ms": round(1000 * slowest), "an_answer": status}
        return told | {
            "seconds_until_closed": round(waited + 0.6 * idle_seconds, 1),
            "files_left": server.num_files - before,
        }


async def _drip(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.send(b"l")
            await asyncio.sleep(0.5)


async def _warm(server: Server) -> None:
    """Let everything be opened that a first request opens."""
    client = Client(server)
    assert (await client.ask(request()))[0] == 200
    client.close()
    await asyncio.sleep(0.2)


async def aborts(num: int) -> dict[str, object]:
    """Hang up in the middle of the header, the body or the answer."""
    rng = random.Random(1)
    message = request(4000)
    with Server(False) as server:
        await _warm(server)
        before = server.num_files
        for _ in range(num):
            _, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(message[: rng.choice([10, message.index(b"{"), len(message), len(message)])])
            await writer.drain()
            await asyncio.sleep(rng.choice([0.0, 0.01, 0.05]))
            writer.close()
        begun = time.monotonic()
        while (server.num_files > before or await _busy(server)) and time.monotonic() - begun < 60:
            await asyncio.sleep(0.1)
        waited = round(time.monotonic() - begun, 1)
        client = Client(server)
        status, _, _ = await client.ask(request())
        client.close()
        await asyncio.sleep(0.2)
        told = {"aborted": num, "all_given_up_after": waited, "files_left": server.num_files - before}
        return told | {"an_answer": status, "peak_mib": round(server.peak_mib)}


async def _busy(server: Server) -> bool:
    client = Client(server)
    _, _, body = await client.ask(HEALTH)
    client.close()
    state = json.loads(body)
    await asyncio.sleep(0.1)
    return bool(state["running"] or state["waiting"])


async def drain(clients: int) -> dict[str, object]:
    """SIGTERM under load: whoever was let in is answered, then the server ends with 0."""
    with Server(True) as server:
        tally = Tally()
        asking = [asyncio.create_task(_keep_asking(server, tally, time.monotonic() + 60)) for _ in range(clients)]
        await asyncio.sleep(2.0)
        server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        await asyncio.gather(*asking)
        code = await asyncio.to_thread(server.process.wait, 40)
        other = sum(n for status, n in tally.statuses.items() if status not in (0, 200, 429, 503))
        return {
            "clients": clients,
            "answered": tally.statuses[200],
            "answers_lost": server.finished - tally.statuses[200],
            "refused": tally.statuses[429],
            "other_statuses": other,
            "seconds_to_end": round(time.monotonic() - begun, 2),
            "exit": code,
        }


def main() -> int:
    """Read the command line."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2] == "stand-in", *sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load")
    given = parser.parse_args()
    for part in given.parts or PARTS:
        size = {"load": (64, given.seconds), "slow": (200,), "aborts": (500,), "drain": (64,)}[part]
        told = asyncio.run(globals()[part](*size))
        print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in told.items()), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
