# SPDX-License-Identifier: Apache-2.0
"""The picture of a run's curves shows what was logged."""

import pytest
from PIL import Image

from r1_mllm import cli
from r1_mllm.report import plots
from r1_mllm.report.page import panels
from r1_mllm.report.run_files import read_run


def test_every_curve_is_drawn_where_its_numbers_are(run_folder):
    run = read_run(run_folder)
    found = panels(run)
    figure = plots.draw(run, found)
    drawn = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in drawn] == [title for title, _ in found]
    assert len(figure.axes) == 12 and len(drawn) == 10  # the last row has room for two more
    for axis, (_, series) in zip(drawn, found, strict=True):
        every, averaged = axis.lines[::2], axis.lines[1::2]
        assert [line.get_label() for line in averaged] == list(series)
        for line, strong, points in zip(every, averaged, series.values(), strict=True):
            assert list(zip(*line.get_data(), strict=True)) == points
            assert strong.get_ydata()[0] == pytest.approx(points[0][1]) and len(strong.get_ydata()) == len(points)


def test_the_command_writes_it_beside_the_page(run_folder, capsys):
    cli.main(["report", str(run_folder), "--png"])
    page, picture = capsys.readouterr().out.split()
    assert (page, picture) == (str(run_folder / "report.html"), str(run_folder / "curves.png"))
    with Image.open(picture) as seen:
        assert seen.format == "PNG" and seen.width > 1000 and len(seen.convert("RGB").getcolors(1 << 20)) > 20


def test_a_run_without_numbers_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="no numbers to draw yet"):
        plots.write_plots(tmp_path)
