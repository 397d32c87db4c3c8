# SPDX-License-Identifier: Apache-2.0
import re

import pytest

from r1_mllm.report.charts import legend, line_chart, number, smooth, span_of, ticks


def test_the_average_of_three_points_by_hand():
    # span 3 keeps a half: (2), (1 + 1*0.5...) with weights 1/3, 2/3 and then 1/7, 2/7, 4/7
    points = [(1.0, 3.0), (2.0, 9.0), (3.0, 30.0)]
    assert smooth(points, 3) == [(1.0, pytest.approx(3.0)), (2.0, pytest.approx(7.0)), (3.0, pytest.approx(141 / 7))]


def test_a_span_of_one_changes_nothing():
    assert smooth([(1.0, 3.0), (2.0, 9.0)], 1) == [(1.0, 3.0), (2.0, 9.0)]
    assert (span_of(5), span_of(200)) == (1, 10)


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (-0.05, 0.05, [-0.05, -0.025, 0, 0.025, 0.05]), (3, 97, [25, 50, 75])],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_numbers_are_short():
    assert [number(value) for value in (0.123456, 2, 819200.4, 0, -0.00031)] == [
        "0.123",
        "2",
        "819200",
        "0",
        "-0.00031",
    ]


def test_a_line_goes_from_edge_to_edge_and_up_when_values_rise():
    svg = line_chart({"reward": [(10.0, 1.0), (20.0, 2.0), (30.0, 5.0)]})
    raw, averaged = re.findall(r'points="([^"]+)"', svg)
    corners = [tuple(map(float, pair.split(","))) for pair in raw.split()]
    assert corners[0][0] == 52 and corners[-1][0] == 408  # LEFT and WIDTH - RIGHT
    assert corners[1][0] == 230  # half way
    assert corners[0][1] > corners[1][1] > corners[2][1]
    # the scale is 0 .. 5.24 over 174 px from the top at 10
    assert corners[2][1] == pytest.approx(10 + 0.24 / 5.24 * 174, abs=0.06)
    assert averaged == raw  # three points are too few to average


def test_one_point_and_a_constant_can_be_drawn():
    assert "circle" in line_chart({"kl": [(1.0, 0.0)]})
    assert "nan" not in line_chart({"kl": [(1.0, 7.0), (2.0, 7.0)]})


def test_a_long_run_is_thinned_but_ends_where_it_ends():
    points = [(float(step), float(step % 7)) for step in range(1, 5001)]
    raw = re.findall(r'points="([^"]+)"', line_chart({"loss": points}))[0].split()
    assert len(raw) <= 402 and raw[-1].startswith("408.0,")


def test_several_series_have_a_legend_and_one_has_none():
    assert legend(["reward"]) == ""
    assert legend(["accuracy", "<x>"]).count("<span>") == 2 and "&lt;x&gt;" in legend(["accuracy", "<x>"])


def test_steps_are_whole_numbers_in_a_short_run():
    drawn = line_chart({"reward": [(step, 0.3 * step) for step in range(1, 13)]})
    assert ">5</text>" in drawn and ">10</text>" in drawn and ">7.5</text>" not in drawn
