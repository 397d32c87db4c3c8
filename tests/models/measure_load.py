# SPDX-License-Identifier: Apache-2.0
"""Run by test_weights.py in its own process: print the peak of anonymous memory while a model loads, in bytes.

Usage: python measure_load.py FOLDER DTYPE
"""

import sys
import threading

from r1_mllm import runtime


def main(folder: str, dtype: str) -> None:
    runtime.prepare()
    from r1_mllm.bench.machine import anonymous_bytes  # after prepare(): these import Paddle
    from r1_mllm.models.weights import load_pretrained

    load_pretrained(f"{folder}/warm_up", dtype)  # one-time costs of the libraries are not the model's
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    model = load_pretrained(folder, dtype)
    done.set()
    thread.join()
    peak = max(peak, anonymous_bytes())
    assert model is not None
    print(peak - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
