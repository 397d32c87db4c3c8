# SPDX-License-Identifier: Apache-2.0
"""Run by test_hangs.py in two processes: train; rank 1 hangs at the place it is told once two steps are taken.

Usage: hanging_rank.py loader|exchange|reward|lock FILE FLAG...; FILE appears when it hangs.
"""

import os
import re
import sys
import time
from pathlib import Path

from r1_mllm import runtime

runtime.prepare(2)

import paddle.distributed as dist

from r1_mllm.config import GrpoConfig
from r1_mllm.config.flags import parse
from r1_mllm.distributed import heartbeat
from r1_mllm.processing import prompt
from r1_mllm.training import collect, grpo


def hang_forever():
    while True:
        time.sleep(100)


def keep_the_lock():
    re.match("(a+)+b", "a" * 90)


PLACES = {
    "loader": (prompt, "open_image", hang_forever),
    "exchange": (dist, "all_gather_object", hang_forever),
    "reward": (collect.rewards, "score", hang_forever),
    "lock": (collect.rewards, "score", keep_the_lock),
}


def main():
    kind, told, *words = sys.argv[1:]
    module, name, hang = PLACES[kind]
    plain = getattr(module, name)

    def replaced(*arguments, **named):
        if heartbeat.latest.step == 2:
            Path(told).touch()
            hang()
        return plain(*arguments, **named)

    if os.environ["PADDLE_TRAINER_ID"] == "1":
        setattr(module, name, replaced)
    grpo.train(parse(GrpoConfig, words, "hanging_rank"))


try:
    main()
except runtime.Stop as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.code)
