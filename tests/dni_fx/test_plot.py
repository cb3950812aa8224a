"""Plots of trainings: any number of steps and boundaries, always the same bytes."""

import dataclasses
import math
import sys

import pytest

import dni_fx
from dni_fx.diagnosis import Diagnosis
from dni_fx.history import Record
from dni_fx.plot import check_plot, write_plot

pytest.importorskip("matplotlib")


def history(steps, boundaries, locked_from=math.inf):
    """A made-up training; the first boundary is locked from a step on."""
    records = []
    for step in range(1, steps + 1):
        found = {}
        for depth in range(boundaries):
            wave = math.sin(step / 20 + depth)
            locked = depth == 0 and step >= locked_from
            mix = 1.0 if locked else 0.0
            found[f"layers.{depth}"] = Diagnosis(wave, (1 + wave) / 2, 1 - wave, 10.0**-depth, mix, locked)
        records.append(Record(step, 1 / step, found, {}))
    return records


def drawn(records):
    from dni_fx.curves import figure_of

    return figure_of(records)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_history_gives_the_same_bytes(tmp_path, suffix):
    for name in ("one", "two"):
        write_plot(history(30, 3), tmp_path / f"{name}{suffix}")
    one, two = (tmp_path / f"{name}{suffix}" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("steps", [1, 2, 50, 1000])
@pytest.mark.parametrize("boundaries", [0, 1, 30])
def test_any_number_of_steps_and_boundaries_can_be_drawn(tmp_path, steps, boundaries):
    write_plot(history(steps, boundaries), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_there_is_a_panel_for_each_figure_and_one_for_the_loss_alone():
    titles = [axes.get_title(loc="left") for axes in drawn(history(30, 3)).axes]
    assert len(titles) == 6
    for word in ("loss", "cosine", "signs", "error", "root mean square", "goes up"):
        assert sum(word in title for title in titles) == 1, word
    assert [axes.get_title(loc="left") for axes in drawn(history(30, 0)).axes] == ["loss"]


def test_every_boundary_is_drawn_and_the_legend_names_the_ends_and_a_few_between():
    figure = drawn(history(30, 30))
    curves = figure.axes[1].get_lines()
    assert len({line.get_color() for line in curves} - {"#8c8c8c"}) == 30
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == 11
    assert (names[0], names[-1]) == ("layers.0", "layers.29")
    assert "11 of 30 boundaries" in legend.get_title().get_text()


def test_a_locked_span_is_dotted_and_colored():
    free, locked = drawn(history(40, 2)), drawn(history(40, 2, locked_from=21))
    assert not free.axes[-1].get_title(loc="right")
    assert locked.axes[-1].get_title(loc="right") == "locked"
    dotted = [line for line in locked.axes[1].get_lines() if line.get_linestyle() == ":"]
    assert sum(int((~(line.get_ydata() != line.get_ydata())).sum()) for line in dotted) == 20
    image = locked.axes[-1].get_images()[0].get_array()
    is_colored = (image[..., 0] != image[..., 2])[0]
    assert list(is_colored) == [False] * 20 + [True] * 20


def test_figures_that_are_not_finite_leave_a_gap(tmp_path):
    records = history(20, 2)
    bad = Diagnosis(0.0, math.nan, math.nan, math.inf, 0.0, False)
    records[5] = dataclasses.replace(records[5], loss=math.nan, boundaries={"layers.1": bad})
    write_plot(records, tmp_path / "plot.svg")
    nothing = [dataclasses.replace(each, loss=math.nan, boundaries={"a": bad}) for each in records]
    write_plot(nothing, tmp_path / "plot.png")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(dni_fx.DniError, match=r"plot\.gif: a plot is a \.png or \.svg file"):
        check_plot(tmp_path / "plot.gif")
    with pytest.raises(dni_fx.DniError, match="there is no step to show"):
        write_plot([], tmp_path / "plot.png")
    with pytest.raises(dni_fx.DniError, match=r"cannot write .*: No such file or directory"):
        write_plot(history(2, 1), tmp_path / "nowhere" / "plot.png")


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        dni_fx.DniError, match=r"matplotlib is not installed: pip install 'dni-fx\[picture\]'"
    ):
        check_plot("plot.png")


def test_the_settings_of_matplotlib_stay_as_they_were(tmp_path):
    import matplotlib as mpl

    settings = dict(mpl.rcParams)
    write_plot(history(3, 1), tmp_path / "plot.png")
    assert dict(mpl.rcParams) == settings
