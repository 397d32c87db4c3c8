# SPDX-License-Identifier: Apache-2.0
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from r1_mllm.report.curves import Curve, curve_chart


def centres(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_every_value_is_drawn_where_it_is_and_joined_by_straight_lines():
    values = [(1.0, 10.0), (2.0, 90.0), (3.0, 10.0), (4.0, 60.0)]
    svg = curve_chart("accuracy", "step", [Curve("a", values)])
    ElementTree.fromstring(svg)
    drawn = centres(svg)
    xs, ys = zip(*drawn, strict=True)
    assert [b - a for a, b in pairwise(xs)] == pytest.approx([(xs[3] - xs[0]) / 3] * 3, abs=0.11)  # written to 0.1
    share = (ys[0] - ys[3]) / (ys[0] - ys[1])
    assert ys[0] == ys[2] and abs(share - 50 / 80) < 0.01
    (line,) = re.findall(r'points="([^"]+)"', svg)
    assert [tuple(map(float, point.split(","))) for point in line.split()] == drawn


def test_doublings_are_equally_far_apart_and_labelled():
    svg = curve_chart("pass@k", "k", [Curve("open", [(1.0, 0.1), (2.0, 0.2), (4.0, 0.3), (64.0, 0.9)])], log_x=True)
    xs = [x for x, _ in centres(svg)]
    assert abs((xs[1] - xs[0]) - (xs[2] - xs[1])) < 0.2 and abs((xs[3] - xs[2]) - 4 * (xs[1] - xs[0])) < 0.3
    assert ">64</text>" in svg and "open: 0.9 at 64" in svg


def test_intervals_reach_from_low_to_high_and_names_are_escaped():
    svg = curve_chart("t", "step", [Curve("<a&b>", [(1.0, 50.0)], [(20.0, 70.0)], dashed=True)])
    ElementTree.fromstring(svg)
    ((top, bottom),) = re.findall(r'y1="([\d.]+)" y2="([\d.]+)" stroke="#\w+" stroke-width="5"', svg)
    ((_, middle),) = centres(svg)
    assert float(top) > middle > float(bottom)  # low is further down the picture
    assert "&lt;a&amp;b&gt;" in svg and "stroke-dasharray" in svg
