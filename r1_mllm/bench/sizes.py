# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm bench sizing`: tables of r1_mllm.training.sizing for machines and settings one asks about.  No Paddle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..config import GrpoConfig
from ..config.flags import parse
from ..models.config import ModelArch
from ..runtime import MODEL, Stop
from ..training import sizing

PROG = "r1-mllm bench sizing"


def main(argv: Sequence[str]) -> None:
    """Print one table per network; every flag that is not listed is one of `r1-mllm grpo`."""
    parser = argparse.ArgumentParser(prog=PROG, description=main.__doc__, allow_abbrev=False)
    known = ", ".join(sizing.PUBLISHED)
    parser.add_argument("--arch", nargs="+", default=list(sizing.PUBLISHED), help=f"{known}, or a model folder")
    parser.add_argument("--devices", type=int, default=8, help="of all nodes together")
    parser.add_argument("--device_gb", type=float, default=80.0, help="memory of each, 1e9 bytes")
    parser.add_argument("--cpu", action="store_true", help="float32 and attention's probabilities, as on a CPU")
    given, rest = parser.parse_known_args(argv)
    config = parse(GrpoConfig, rest, PROG)
    for name in given.arch:
        try:
            rows = sizing.memory_estimate(_arch(name), config, given.devices, "cpu" if given.cpu else "gpu")
        except ValueError as error:
            raise Stop(str(error), MODEL) from error
        flags = " ".join(rest) or "defaults"
        print(f"{name}, {given.devices} devices of {given.device_gb:g} GB, {flags}")
        print(sizing.describe(rows, given.device_gb))


def _arch(name: str) -> ModelArch:
    if name in sizing.PUBLISHED:
        return ModelArch.from_dict(sizing.PUBLISHED[name], name)
    return ModelArch.from_pretrained(name)
