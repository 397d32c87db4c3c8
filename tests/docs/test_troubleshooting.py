# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md: every symptom is answered, with flags, metrics and exit codes that exist."""

import re
import shlex

from r1_mllm import runtime
from r1_mllm.config import EvalConfig, GrpoConfig
from r1_mllm.config.flags import leaf_types, split

from .reading import ROOT, rows

PAGE = "docs/troubleshooting.md"
SYMPTOMS = rows(PAGE, "## By symptom")
METRICS = (ROOT / "docs/data.md").read_text(encoding="utf-8")


def test_the_ranked_list_is_answered_row_by_row():
    assert [row[0] for row in SYMPTOMS] == [str(number) for number in range(1, 22)]
    assert not [row[0] for row in SYMPTOMS if len(row) != 5 or not row[1] or len(row[3]) < 40]


def test_what_is_to_be_set_is_known():
    known = {**leaf_types(GrpoConfig), **leaf_types(EvalConfig), "dry_run": bool}
    typed = [words for row in SYMPTOMS for words in re.findall(r"`(--[^`]*)`", row[3])]
    assert len(typed) > 25
    for words in typed:
        split(shlex.split(words), known)


def test_metrics_that_are_named_are_logged():
    named = {name for row in SYMPTOMS for name in re.findall(r"`((?:[a-z_]+/)?[a-z_]+)`", row[4])}
    known = METRICS.replace("{mean,min,max}_", "mean_").replace("{encode,generate,reward,reference,update}", "generate")
    prefixes = ("time/", "rewards/")
    files = {"extracted", "decided_by", "settings", "interval", "fingerprint", "masters", "extracted_answer"}
    lost = {name for name in named - files if name.rpartition("/")[2] not in known and not name.startswith(prefixes)}
    assert len(named) > 15 and not lost


def test_every_exit_code_has_a_first_step():
    codes = {int(code) for row in rows(PAGE, "## By exit code") for code in row[0].split(", ")}
    ours = {
        value for name, value in vars(runtime).items() if name.isupper() and isinstance(value, int) and 60 < value < 80
    }
    assert codes == ours | {1, 69, 130, 143}
    (listed,) = re.findall(r"### Exit codes\n\n(.*)", METRICS)
    assert {int(code) for code in re.findall(r"\b\d+(?= )", listed)} == ours | {0, 69}
