# SPDX-License-Identifier: Apache-2.0
"""Check a verifier on real answers: every gold answer must be accepted for its own problem in every form people write
it in, and no gold answer of another value may be.

Which values differ is decided here without the verifier: by floating-point evaluation of the few shapes gold answers
have, and by letters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .data.read import rows
from .records import Example
from .tasks import get_task

FORMS = {
    "plain": ("geometry", "baseline", "{}"),
    "boxed": ("math_boxed", "r1", "<think>t</think> \\boxed{{{}}}"),
    "answer": ("geometry", "r1", "<think>t</think><answer>{}</answer>"),
}
"""Name -> (task, method, how the answer is written)."""


@dataclass
class GoldReport:
    """What was asked and what went wrong."""

    num_problems: int = 0
    num_own: int = 0
    """Comparisons of a gold answer with its own problem, all forms together."""
    num_others: int = 0
    """Comparisons of a problem with a gold answer of another value, all forms together."""
    num_same_value: int = 0
    """Other problems' gold answers that are right here too (52 and 52, or the text of the right option): not asked."""
    not_accepted: list[str] = field(default_factory=list)
    not_refused: list[str] = field(default_factory=list)
    same_text: list[str] = field(default_factory=list)
    """Gold answers that equal a right option's text: the cases of num_same_value that are no plain repetition."""

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong and something was asked."""
        return self.num_own > 0 and not self.not_accepted and not self.not_refused

    def lines(self) -> list[str]:
        """The figures and every exception, as text."""
        head = (
            f"{self.num_problems} problems: {self.num_own} own answers asked, {len(self.not_accepted)} not accepted; "
            f"{self.num_others} answers of another value asked, {len(self.not_refused)} not refused; "
            f"{self.num_same_value} of the same value left out"
        )
        return [head, *self.not_accepted, *self.not_refused, *self.same_text]


def check_folder(folder: str | Path) -> GoldReport:
    """Check the problems of FOLDER/problems.jsonl, or of a data-set file (MathVision's columns, verl's ...)."""
    path = Path(folder)
    path = path / "problems.jsonl" if path.is_dir() else path
    tasks = {name: get_task(name) for name, _, _ in FORMS.values()}
    problems = [{name: task.example(row, where) for name, task in tasks.items()} for row, where in rows(path)]
    golds = list(dict.fromkeys(problem["math_boxed"].answer for problem in problems))
    report = GoldReport(len(problems))
    for problem in problems:
        _check_own(problem, report)
        for gold in golds:
            _check_other(problem, gold, report)
    return report


def _check_own(problem: Mapping[str, Example], report: GoldReport) -> None:
    for form in FORMS:
        report.num_own += 1
        grade = _graded(problem, form, problem["math_boxed"].answer)
        if not grade.correct:
            report.not_accepted.append(f"{_name(problem)} as {form}: refused ({grade.decided_by})")


def _check_other(problem: Mapping[str, Example], gold: str, report: GoldReport) -> None:
    own = problem["math_boxed"]
    if gold == own.answer:
        return
    if same_value(gold, own):
        report.num_same_value += 1
        report.same_text.append(f"{_name(problem)}: {gold!r} is right too")
        return
    for form in FORMS:
        report.num_others += 1
        grade = _graded(problem, form, gold)
        if grade.correct:
            report.not_refused.append(f"{_name(problem)} as {form}: {gold!r} accepted ({grade.decided_by})")


def _graded(problem: Mapping[str, Example], form: str, answer: str) -> Any:
    task, method, written = FORMS[form]
    return get_task(task).grade(written.format(answer), problem[task], method=method)


def _name(problem: Mapping[str, Example]) -> str:
    example = problem["math_boxed"]
    return f"problem {example.meta.get('id')} (gold {example.answer!r})"


def same_value(text: str, example: Example) -> bool:
    """Whether a text has the value of the gold answer, or of the option the gold letter stands for."""
    if text == example.answer:
        return True
    mine, wanted = number(text), number(example.answer)
    if mine is not None and wanted is not None:
        return math.isclose(mine, wanted, rel_tol=1e-9)
    options = [str(option) for option in example.meta.get("options") or ()]
    right = "ABCDEFGH".find(example.answer) if len(example.answer) == 1 else -1
    if not 0 <= right < len(options):
        return False
    value = number(_UNIT.sub("", options[right]))
    return mine is not None and value is not None and math.isclose(mine, value, rel_tol=1e-9)


_UNIT = re.compile(r"\\(?:mathrm|text)\{[^{}]*\}(?:\^\{?[23]\}?)?|\^\{?\\circ\}?|[$~]")
_ATOM = re.compile(r"\d+(?:\.\d+)?|pi|sqrt|[-+*/() ]")


def number(text: str) -> float | None:
    """Evaluate decimals, sums, products, fractions, roots and pi in LaTeX; None for anything else."""
    plain = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", text)
    plain = re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", plain).replace("\\pi", "pi")
    plain = re.sub(r"(?<=[\d)])\s*(?=sqrt|pi|\()", "*", plain)
    if not plain.strip() or _ATOM.sub("", plain):
        return None
    try:
        return float(eval(plain, {"__builtins__": {}}, {"sqrt": math.sqrt, "pi": math.pi}))  # atoms checked above
    except (SyntaxError, ZeroDivisionError, ValueError, TypeError):
        return None
