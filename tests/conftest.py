# SPDX-License-Identifier: Apache-2.0
"""Options every test folder shares; Paddle's environment is set before anything imports it."""

from pathlib import Path

from r1_mllm import runtime

DEFAULT_ROOT = Path(__file__).parent / "golden" / "cases"

runtime.prepare()


def pytest_addoption(parser):
    parser.addoption("--golden-root", default=str(DEFAULT_ROOT), help="folder of golden cases")
