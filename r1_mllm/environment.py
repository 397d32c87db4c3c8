# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm env`: what this machine has and which versions are installed, for bug reports.

Nothing here imports Paddle: whether it can be imported is tried in another process, so that a missing, broken or
hanging one is part of the answer instead of its end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from .runtime import VERSION, num_cores, processor

PROG = "r1-mllm env"
Sections = dict[str, dict[str, str]]
"""Heading -> (what -> value)."""

NEEDED = (
    *("numpy", "safetensors", "tokenizers", "huggingface-hub", "jinja2", "pillow", "pyyaml", "pyarrow", "math-verify"),
    *("tyro", "tqdm", "visualdl", "matplotlib", "pycocotools", "numba", "setuptools"),
)
OPTIONAL = ("httpx", "starlette", "uvicorn", "scikit-learn", "tensorboardX", "swanlab", "wandb")
PADDLE = ("paddlepaddle", "paddlepaddle-gpu")
IMPORT_SECONDS = 120
PROBE = """
import json, warnings
warnings.simplefilter("ignore")
import paddle
cuda = paddle.device.is_compiled_with_cuda()
found = {"version": paddle.__version__, "commit": getattr(paddle.version, "commit", "unknown"), "built for": "CPUs"}
if cuda:
    found["built for"] = f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}"
    found["GPUs it sees"] = str(paddle.device.cuda.device_count())
found["device"] = paddle.device.get_device()
print(json.dumps(found))
"""
CPU_FLAGS = ("avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16")
VARIABLES = ("FLAGS_", "PADDLE_", "CUDA_", "NCCL_", "OMP_", "KMP_", "MKL_", "R1_", "LD_PRELOAD", "NVIDIA_VISIBLE")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS", re.IGNORECASE)


def main(argv: Sequence[str]) -> None:
    """Print the sections, or one JSON object."""
    text = "Print versions, devices, memory and settings of the environment: what a bug report needs."
    parser = argparse.ArgumentParser(prog=PROG, description=text, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines of text")
    given = parser.parse_args(argv)
    sections = describe()
    print(json.dumps(sections, indent=1, ensure_ascii=False) if given.json else render(sections))


def describe() -> Sections:
    """Collect everything; what cannot be found out says so."""
    return {
        "r1_mllm": {"version": VERSION, "commit": _commit(), "python": platform.python_version()},
        "paddle": _installed(PADDLE, absent=False) | paddle_works(),
        "packages": _installed(NEEDED),
        "optional packages": _installed(OPTIONAL, absent=False),
        "machine": _machine(),
        "memory": _memory(),
        "GPUs": _gpus(),
        "environment": variables(os.environ),
    }


def render(sections: Sections) -> str:
    """Write the sections as indented lines."""
    lines = []
    for heading, values in sections.items():
        lines += [heading, *(f"  {name}: {value}" for name, value in values.items())]
        if not values:
            lines.append("  none")
    return "\n".join(lines)


def paddle_works() -> dict[str, str]:
    """Import Paddle in a process of its own; its version and devices, or how that failed."""
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"import": f"does not end within {IMPORT_SECONDS} s"}
    if done.returncode < 0:
        return {"import": f"ends by {signal.Signals(-done.returncode).name}"}
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode:
        return {"import": f"fails: {last}"}
    return {"import": "works", **json.loads(done.stdout.strip().splitlines()[-1])}


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Pick the variables that change how Paddle and this program run; values of secrets are left out."""
    chosen = sorted(name for name in environment if name.startswith(VARIABLES))
    return {name: "(set)" if SECRET.search(name) else environment[name] for name in chosen}


def _installed(names: Sequence[str], absent: bool = True) -> dict[str, str]:
    """Versions of distributions; those that are not there are listed when `absent`."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if absent:
                found[name] = "not installed"
    return found


def _commit() -> str:
    """The checkout's commit, and whether files differ from it."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return "not a checkout"
    head = _output("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return f"{head}, with changes" if changed else head or "unknown"


def _machine() -> dict[str, str]:
    fields = processor()
    name, vendor = fields.get("model name"), fields.get("vendor_id")
    flags = fields.get("flags", "").split()
    return {
        "system": platform.platform(),
        "C library": " ".join(platform.libc_ver()).strip() or "unknown",
        "processor": f"{name or platform.processor() or 'unknown'} ({vendor or platform.machine()})",
        "instructions": " ".join(name for name in CPU_FLAGS if name in flags) or "unknown",
        "cores": f"{num_cores()} usable of {os.cpu_count()}",
    }


def _memory() -> dict[str, str]:
    """Memory of the machine, of this container and of the places that checkpoints and processes use."""
    found = {}
    path = Path("/proc/meminfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, value = line.split(":", 1)
        if name in ("MemTotal", "MemAvailable", "SwapTotal"):
            found[name] = _gb(int(value.split()[0]) * 1024)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).is_file() else ""
        if text.isdigit() and int(text) < 1 << 60:
            found["container's limit"] = _gb(int(text))
    for name, folder in (("free in /dev/shm", "/dev/shm"), ("free in this folder", ".")):
        if os.path.isdir(folder):
            found[name] = _gb(shutil.disk_usage(folder).free)
    return found


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def _gpus() -> dict[str, str]:
    """What NVIDIA's own tool lists."""
    if shutil.which("nvidia-smi") is None:
        return {}
    asked = "index,name,memory.total,memory.used,driver_version,compute_cap"
    listed = _output("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader")
    if not listed:
        return {"nvidia-smi": "is there and lists nothing"}
    found = {}
    for line in listed.splitlines():
        index, name, total, used, driver, capability = (part.strip() for part in [*line.split(","), *[""] * 6][:6])
        found[f"GPU {index}"] = f"{name}, {used} of {total} used, driver {driver}, compute capability {capability}"
    return found


def _output(*command: str) -> str:
    """What a command prints; nothing when it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
