# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest

from r1_mllm.rejection.choose import Candidate, above, balanced, distinct, read_quotas


def candidate(question, text, score, place=(0, 0), domain="math", num_tokens=5):
    return Candidate(question, domain, text, score, num_tokens, place)


def test_the_threshold_itself_is_not_enough_and_the_unjudged_are_out():
    scores = [84.9, 85.0, 85.1, None, 100.0]
    kept = above([candidate("q", str(i), score) for i, score in enumerate(scores)], 85.0)
    assert [one.score for one in kept] == [85.1, 100.0]


def test_the_best_different_answers_to_a_question_stay():
    found = [
        candidate("q", "a  b", 90, (0, 0)),
        candidate("q", "a\nb", 95, (0, 1)),  # the same words, better
        candidate("q", "c", 95, (0, 2), num_tokens=3),  # as good and shorter
        candidate("q", "d", 99, (0, 3)),
        candidate("r", "a b", 86, (1, 0)),  # said of another question
        candidate("q", "d", 98, (2, 0)),  # the same question again, further down the data
    ]
    assert [one.place for one in distinct(found, 0)] == [(0, 1), (0, 2), (0, 3), (1, 0)]
    assert [one.place for one in distinct(found, 2)] == [(0, 2), (0, 3), (1, 0)]
    assert [one.place for one in distinct(found, 1)] == [(0, 3), (1, 0)]


def many(**counts):
    return [
        candidate(f"{name}{i}", "x", 90, (number * 100 + i, 0), name)
        for number, (name, num) in enumerate(counts.items())
        for i in range(num)
    ]


def test_no_domain_gets_more_than_so_many_times_the_smallest():
    kept, warnings = balanced(many(math=40, science=7, general=9), {}, 1.5, seed=4)
    assert Counter(one.domain for one in kept) == {"math": 11, "science": 7, "general": 9} and not warnings
    assert kept == balanced(many(math=40, science=7, general=9), {}, 1.5, seed=4)[0]
    assert kept != balanced(many(math=40, science=7, general=9), {}, 1.5, seed=5)[0]
    assert len(balanced(many(math=40, science=7), {}, 0, seed=4)[0]) == 47
    assert [one.place for one in kept] == sorted(one.place for one in kept)


def test_quotas_come_first_and_what_is_missing_is_said():
    kept, warnings = balanced(many(math=40, science=7, general=9), {"math": 20, "science": 30}, 1.0, seed=0)
    assert Counter(one.domain for one in kept) == {"math": 20, "science": 7, "general": 9}
    assert warnings == ["domain science: 7 answers for a quota of 30"]
    with pytest.raises(ValueError, match=r"biology: no answer.*math \(40\)"):
        balanced(many(math=40), {"biology": 3}, 1.0, seed=0)


def test_quotas_are_read_as_names_and_counts():
    assert read_quotas(["math=700", "a=b=3"]) == {"math": 700, "a=b": 3}
    for word in ("math", "math=", "=3", "math=-1", "math=many"):
        with pytest.raises(ValueError, match="NAME=COUNT"):
            read_quotas([word])
