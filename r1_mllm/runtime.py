# SPDX-License-Identifier: Apache-2.0
"""What must be settled before Paddle loads: threads, the CPU's math code path, quiet warnings; and a clear word when
Paddle is missing.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings


def _cpu_vendor_and_flags() -> tuple[str, set[str]]:
    """Read the first processor's vendor and instruction flags; empty where /proc is not there."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().split("\n\n", 1)[0].splitlines()
    except OSError:
        return "", set()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    return fields.get("vendor_id", ""), set(fields.get("flags", "").split())


def prepare(ranks_per_node: int = 1) -> None:
    """Set the environment that makes Paddle several times faster on a CPU; what the user set stays.

    Must run before Paddle is imported; calling it again does nothing.

    Args:
        ranks_per_node: processes that share this machine's cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks_per_node)))
    os.environ.setdefault("FLAGS_use_stride_kernel", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    vendor, flags = _cpu_vendor_and_flags()
    # MKL takes its slow generic code path on CPUs other than Intel's unless told which instructions are there.
    if vendor != "GenuineIntel" and "avx2" in flags:
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
    m_mmap_threshold, m_trim_threshold = -3, -1
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)
