# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm bench scaling`: the step on paper (training/step_time.py) for networks, devices and settings.  No Paddle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..config import GrpoConfig
from ..config.flags import parse
from ..models.config import ModelArch
from ..runtime import MODEL, Stop
from ..training import sizing, step_time

PROG = "r1-mllm bench scaling"
MACHINES = {"a100": step_time.Machine(), "h100": step_time.H100}


def main(argv: Sequence[str]) -> None:
    """Print a table per network and number of devices; every flag that is not listed is one of `r1-mllm grpo`."""
    parser = argparse.ArgumentParser(prog=PROG, description=main.__doc__, allow_abbrev=False)
    known = ", ".join(sizing.PUBLISHED)
    parser.add_argument("--arch", nargs="+", default=list(sizing.PUBLISHED), help=f"{known}, or a model folder")
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 8, 64], help="of all nodes together")
    parser.add_argument("--machine", choices=MACHINES, default="a100", help="GPU whose data sheet is taken")
    parser.add_argument("--prompt", type=int, default=600, help="tokens, visual ones included")
    parser.add_argument("--visual", type=int, default=484, help="visual tokens of a prompt (484: 616 x 616 px)")
    parser.add_argument("--completion", type=int, default=200, help="mean tokens of a completion")
    given, rest = parser.parse_known_args(argv)
    config, machine = parse(GrpoConfig, rest, PROG), MACHINES[given.machine]
    print(f"on paper, {machine.name}: {machine.flops_share:.0%} of {machine.peak_flops / 1e12:g} TFLOP/s, ", end="")
    print(f"{machine.bandwidth_share:.0%} of {machine.bandwidth / 1e12:g} TB/s, {machine.launch * 1e6:g} us a launch")
    for name in given.arch:
        try:
            known_sizes = sizing.PUBLISHED.get(name)
            arch = ModelArch.from_dict(known_sizes, name) if known_sizes else ModelArch.from_pretrained(name)
            work = step_time.Work.of(arch, config, given.prompt, given.visual, given.completion)
            for world in given.devices:
                _show(name, arch, config, work, world, machine)
        except ValueError as error:
            raise Stop(str(error), MODEL) from error


def _show(name: str, arch: ModelArch, config: GrpoConfig, work: step_time.Work, world: int, machine) -> None:
    gb = sizing.total(sizing.memory_estimate(arch, config, world)) / 1e9
    seconds = step_time.step_seconds(arch, config, work, world, machine)
    fits = "fits" if gb <= machine.memory / 1e9 else "does not fit"
    print(f"{name}, {world} devices, {gb:.0f} GB each ({fits} {machine.memory / 1e9:g} GB)")
    print(*step_time.describe(seconds, work, world), sep="\n")
