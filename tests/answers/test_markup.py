# SPDX-License-Identifier: Apache-2.0
import time

import pytest

from r1_mllm.answers import markup


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{\frac{1}{2}} and \boxed {3}", [r"\frac{1}{2}", "3"]),
        (r"\boxed{a \boxed{b}}", [r"a \boxed{b}"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{1} \boxed{2", ["1"]),
        (r"\boxed{1 \boxed{2}", ["2"]),
        ("} {", []),
    ],
)
def test_complete_boxes_are_found(text, found):
    assert markup.boxed(text) == found


def test_unclosed_boxes_take_linear_time():
    started = time.process_time()
    assert markup.boxed("\\boxed{" * 100_000) == []
    assert len(markup.boxed("\\boxed{" * 50_000 + "}" * 50_000)) == 1
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("**$9$**.", "9"),
        (r"\boxed{\text{ B }}", "B"),
        ("```json\n9\n```", "9"),
        (" .5", ".5"),
        (r"1{,}000\ \text{cm}", "1,000  cm"),
        ("\u201cyes\u201d", "yes"),
    ],
)
def test_what_surrounds_an_answer_is_removed(text, plain):
    assert " ".join(markup.strip_markup(text).split()) == " ".join(plain.split())
