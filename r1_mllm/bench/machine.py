# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, and what else it is doing while we measure."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..runtime import num_cores, processor


def describe() -> dict[str, Any]:
    """Name the processor and count the cores this process may use."""
    return {"cpu": processor().get("model name", "unknown"), "cores": num_cores()}


def num_threads() -> int:
    """CPU threads Paddle was started with."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))


def peak_rss_mb() -> int:
    """Largest resident memory of this process so far, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def anonymous_bytes() -> int:
    """Memory of this process that no file backs; 0 where the system does not tell."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.is_file():
        return 0
    line = next(line for line in rollup.read_text().splitlines() if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024


def _busy_seconds() -> float:
    """CPU seconds all processes of the machine have used; 0 where /proc/stat is not there."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class OtherLoad:
    """Cores that other processes kept busy since it was last asked."""

    def __init__(self) -> None:
        self.last = self._now()

    def _now(self) -> tuple[float, float]:
        """CPU seconds of the others so far, and the clock."""
        return _busy_seconds() - sum(os.times()[:4]), time.perf_counter()

    def mark(self) -> float:
        """Cores since the previous mark."""
        (others, clock), self.last = self.last, self._now()
        return max(0.0, (self.last[0] - others) / max(self.last[1] - clock, 1e-6))


def read_rate(num_bytes: int, seconds: float = 0.15) -> float:
    """Measure bytes per second when all threads read a working set of num_bytes again and again; the median pass.

    A working set that fits a cache is read at that cache's rate: give the size of what the work reads.  A machine that
    others share gives now more and now less: measure right beside the work, more than once.
    """
    threads = num_threads()
    per_half = max(num_bytes // (8 * threads), 1024)
    halves = [[np.ones(per_half, np.float32) for _ in range(2)] for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        rounds = _median_pass(lambda: list(pool.map(lambda pair: [np.dot(*pair) for _ in range(4)], halves)), seconds)
    return 4 * threads * 8 * per_half / rounds


def gemm_rate(size: int = 1024, seconds: float = 0.15) -> float:
    """Measure floating-point operations per second of a float32 product of size x size matrices; the median pass."""
    a = paddle.ones([size, size], "float32")
    return 2 * size**3 / _median_pass(lambda: paddle.matmul(a, a), seconds)


def _median_pass(work: Callable[[], Any], seconds: float) -> float:
    """Repeat work for some seconds, at least three times behind one that does not count; gives the median's seconds."""
    work()
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
