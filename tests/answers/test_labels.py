# SPDX-License-Identifier: Apache-2.0
import pytest

from r1_mllm.answers import labels


@pytest.mark.parametrize(
    "text",
    ["traffic light, cat", "Cat,\nTraffic  light.", "['traffic light', 'cat']", '["cat", "traffic light", "cat"]',
     "cat; traffic light"],
)  # fmt: skip
def test_labels_of_two_words_stay_whole_and_order_does_not_matter(text):
    assert labels.parse(text) == {"traffic light", "cat"}


def test_overlap_counts_common_over_all():
    assert labels.jaccard(frozenset("ab"), frozenset("bcd")) == 0.25
    assert labels.jaccard(None, frozenset("a")) == labels.jaccard(labels.parse(" "), labels.parse("")) == 0.0
