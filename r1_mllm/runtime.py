# SPDX-License-Identifier: Apache-2.0
"""What must be settled before Paddle loads: threads, the CPU's math code path, quiet warnings; and a clear word when
Paddle is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType

VERSION = "0.1.0"

USAGE, DATA, MODEL, OUTPUT, DISK, STOPPED, NONFINITE, REWARDS, STALLED = 64, 65, 66, 73, 74, 75, 76, 77, 78
MEMORY = 79
"""Exit codes: wrong settings, bad data, bad model files, folder not usable, disk full, stopped and saved,
non-finite numbers, failing rewards, nothing moved for too long, out of memory."""

OLDEST_PADDLE = (3, 1)
CPU_INSTALL = 'pip install "paddlepaddle>=3.1,<4"'
GPU_INSTALL = 'pip install "paddlepaddle-gpu>=3.1,<4" -i https://www.paddlepaddle.org.cn/packages/stable/cu126/'


class Stop(Exception):
    """An end of the program the user can do something about: one message and the exit code that goes with it."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


SAMPLING_KNOBS = {
    "batch_size": "rows answered together",
    "max_new_tokens": "tokens of an answer",
    "max_pixels": "area of a picture",
}


def out_of_memory(error: MemoryError, words: Sequence[str]) -> Stop:
    """What a command that answers questions says when memory is short; training says more (training/memory.py).

    Args:
        words: of the command line, which may hold values of the flags that help.
    """
    given = dict(pairwise(part for word in words for part in word.split("=", 1)))
    first_line = (str(error).strip().splitlines() or ["no further word"])[0]
    knobs = [f"--{name} {given.get(f'--{name}', '(its default)')} ({what})" for name, what in SAMPLING_KNOBS.items()]
    return Stop(f"out of memory: {first_line}\nsettings that lower it, as they are now: {', '.join(knobs)}", MEMORY)


def end_with_parent() -> None:
    """Let the kernel send this process SIGTERM when the one that started it dies: a killed launcher leaves no rank."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor (vendor_id, model name, flags ...); nothing where it is not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in fields.items()}


def prepare(ranks_per_node: int = 1) -> None:
    """Set the environment that makes Paddle several times faster on a CPU; what the user set stays.

    Must run before Paddle is imported; calling it again does nothing.

    Args:
        ranks_per_node: processes that share this machine's cores.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // ranks_per_node)))
    os.environ.setdefault("FLAGS_use_stride_kernel", "0")
    # Idle OpenMP threads spin this long, ms: long enough from one product to the next, too short to keep the cores from
    # the threads of a crew and from those that run packs side by side.
    os.environ.setdefault("KMP_BLOCKTIME", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    fields = processor()
    flags = fields.get("flags", "").split()
    # MKL takes its slow generic code path on CPUs other than Intel's unless told which instructions are there.
    if fields.get("vendor_id") != "GenuineIntel" and "avx2" in flags:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "7" if "avx512f" in flags else "5")
    _keep_freed_memory()
    warnings.filterwarnings("ignore", message="No ccache found")


def _keep_freed_memory() -> None:
    """Tell glibc to reuse freed buffers instead of returning them to the system.

    Paddle frees and allocates every operator's output; with glibc's defaults each large one is mapped anew and its
    pages are faulted in again, which makes a 7 MB softmax three times and a small matmul ten times slower.
    """
    if not hasattr(ctypes, "CDLL") or sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others: nothing to tune
        return
    m_mmap_threshold, m_trim_threshold, m_arena_max = -3, -1, -8
    mallopt(m_arena_max, 1)  # other arenas hold 64 MB at most and map what is larger
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)


def require_paddle() -> ModuleType:
    """Return the paddle module, its environment prepared; a missing, broken or too old one ends the program.

    The message is one sentence that says what is wrong and the line that installs the right one.
    """
    prepare(int(os.environ.get("PADDLE_LOCAL_SIZE", "1")))
    how = f"For a CPU: {CPU_INSTALL}\nFor NVIDIA GPUs: {GPU_INSTALL}"
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # advice against more than one thread, wrong for our operators
            paddle = importlib.import_module("paddle")
    except ImportError as error:
        missing = error.name == "paddle"
        what = "PaddlePaddle is not installed." if missing else f"PaddlePaddle cannot be imported: {error}."
        raise SystemExit(f"{what}\n{how}") from error
    found = _release(paddle.__version__)
    if found != (0, 0) and found < OLDEST_PADDLE:
        wanted = ".".join(map(str, OLDEST_PADDLE))
        raise SystemExit(f"PaddlePaddle {paddle.__version__} is too old, {wanted} or newer is needed.\n{how}")
    return paddle


def _release(version: str) -> tuple[int, int]:
    """Read major and minor; (0, 0), which Paddle's own development builds carry, when there are none."""
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return 0, 0
    return int(parts[0]), int(parts[1])


def check_device() -> str:
    """Return the device Paddle will use ("cpu" or "gpu:N"); name a GPU that the installed wheel cannot use."""
    paddle = require_paddle()
    device = paddle.device.get_device()
    if device == "cpu" and not paddle.device.is_compiled_with_cuda() and os.path.exists("/dev/nvidia0"):
        warnings.warn(f"there is a GPU, but this PaddlePaddle is the CPU wheel; {GPU_INSTALL}", stacklevel=2)
    return device
