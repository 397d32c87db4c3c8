# SPDX-License-Identifier: Apache-2.0
"""The tests are tested: a broken line of a numerical module must turn one red (tests/mutants.py)."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def mutants():
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tests" / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_mutant_changes_a_line_that_is_there(mutants):
    for mutant in mutants.MUTANTS:
        assert (ROOT / "r1_mllm" / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, mutant
        assert (ROOT / mutant.tests.split()[0]).is_file(), mutant


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_every_mutant_is_noticed(mutants):
    assert mutants.main() == 0
