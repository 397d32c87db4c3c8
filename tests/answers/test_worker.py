# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from r1_mllm.answers.worker import MathVerifier


@pytest.fixture(scope="module")
def verifier():
    made = MathVerifier(timeout=1.0)
    yield made
    made.close()


def test_a_thread_gets_the_same_verdicts_as_the_main_thread(verifier):
    pairs = [
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
        ("x^{2}+2x+1", "(x+1)^{2}"),
        ("2", "3"),
        ("(1,2)", "(2,1)"),
    ]
    here = [verifier.verify(*pair) for pair in pairs]
    other = MathVerifier(timeout=5.0)
    with ThreadPoolExecutor(4) as pool:
        there = list(pool.map(lambda pair: other.verify(*pair), pairs * 3))
    other.close()
    assert here == ["equal", "equal", "different", "different"]
    assert there == here * 3


def test_a_hang_costs_one_answer_and_is_counted(verifier):
    assert verifier.verify("1", "2") == "different"
    before, started = verifier.timeouts, time.monotonic()
    assert verifier.verify("1", "(10^{8})!") == "timeout"
    assert time.monotonic() - started < 8.0  # a machine may be busy
    assert verifier.timeouts == before + 1
    assert verifier.verify("\\pi r", "r\\pi") == "equal"


def test_a_crash_costs_one_answer_and_is_counted(verifier):
    assert verifier.verify("a+b", "b+a") == "equal"
    os.kill(verifier._process.pid, signal.SIGKILL)
    before = verifier.crashes
    assert verifier.verify("c+d", "d+c") == "crash"
    assert verifier.crashes == before + 1
    assert verifier.verify("c+d", "d+c") == "equal"


def test_memory_is_limited():
    small = MathVerifier(timeout=8.0, memory_mb=700)
    assert small.verify("1", "(1+x)^{99999999}") in ("crash", "timeout", "different")
    assert small.verify("b+a", "a+b") == "equal"
    small.close()


def test_other_peoples_alarms_stay_armed(verifier):
    signal.setitimer(signal.ITIMER_REAL, 60)
    verifier.verify("p+q", "q+p")
    left = signal.setitimer(signal.ITIMER_REAL, 0)[0]
    assert left > 50


def test_the_worker_ends_with_its_parent(tmp_path):
    code = (
        "from r1_mllm.answers.worker import MathVerifier; import os\n"
        "v = MathVerifier(30.0); v.verify('1', '2'); print(v._process.pid, flush=True); os._exit(0)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if _state(pid) == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
