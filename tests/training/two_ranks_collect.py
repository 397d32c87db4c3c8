# SPDX-License-Identifier: Apache-2.0
"""Run by test_collect.py in two processes: sample two steps by hand, then train two; write down what this rank saw."""

import importlib.util
import json
import sys
from pathlib import Path

from r1_mllm.training import collect, grpo
from r1_mllm.training.session import open_session
from r1_mllm.training.step import Stopwatch


def main():
    spec = importlib.util.spec_from_file_location("test_collect", Path(__file__).with_name("test_collect.py"))
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    folder = Path(sys.argv[1])
    run = open_session(shared.configure(folder, every=4, output="by_hand"))
    seen = {"streams": [], "rollouts": []}
    for _ in range(2):
        rollout = collect.collect(run, Stopwatch())
        numbers = {"mixed": shared.numbers_of(rollout.groups), "dropped": shared.numbers_of(rollout.dropped)}
        seen["rollouts"].append(numbers)
        seen["streams"].append(run.stream.state())
    (folder / f"rank{run.place.rank}.json").write_text(json.dumps(seen))
    run.close()
    grpo.train(shared.configure(folder, every=4))


main()
