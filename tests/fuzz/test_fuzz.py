# SPDX-License-Identifier: Apache-2.0
"""Every parser takes or refuses a few damaged files; `python tests/fuzz/run.py` does it by the thousand."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("fuzz_run", Path(__file__).with_name("run.py"))
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
QUICK = 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", run.PARSERS)
def test_damaged_files_are_taken_or_refused(name, monkeypatch):
    monkeypatch.setattr(run, "SLOW_SECONDS", 30.0)  # the machine may be busy; run.py measures
    report = run.fuzz(name, QUICK, seed=1, keep=False)
    assert not report.findings, report.findings[0]
    assert sum(report.outcomes.values()) == QUICK + len(run.corpus(name))
    assert report.outcomes["taken"], "the corpus itself must be readable"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", run.PARSERS)
def test_a_hundred_damaged_files_are_taken_or_refused(name, monkeypatch):
    monkeypatch.setattr(run, "SLOW_SECONDS", 30.0)
    report = run.fuzz(name, 100, seed=2, keep=False)
    assert not report.findings, report.findings[0]


def test_a_crash_and_a_slow_file_are_findings(monkeypatch):
    def crashes(path):
        raise KeyError(path.name)

    monkeypatch.setitem(run.PARSERS, "tensors", (crashes, run.damaged))
    assert "KeyError" in run.fuzz("tensors", 1, keep=False).findings[0]
    monkeypatch.setitem(run.PARSERS, "tensors", (lambda path: None, run.damaged))
    monkeypatch.setattr(run, "SLOW_SECONDS", -1.0)
    assert "took" in run.fuzz("tensors", 1, keep=False).findings[0]
