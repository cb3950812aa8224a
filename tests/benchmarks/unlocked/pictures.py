"""Figures of a command as one plot: a panel for each table."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dni_fx.files import write_whole
from tests.benchmarks.unlocked.growth import Growth, Longest
from tests.benchmarks.unlocked.rows import BASE, MIB, Row
from tests.benchmarks.unlocked.settings import Setting
from tests.benchmarks.unlocked.ways import NAMES

COLORS = dict(
    zip(NAMES, ("black", "#8c8c8c", "#999933", "#cc79a7", "#56b4e9", "#0072b2", "#d55e00"), strict=True)
)
Panel = tuple[Callable[..., None], Setting, Sequence[Any]]


def draw_rows(axes: Any, setting: Setting, found: Sequence[Row]) -> None:
    """Memory by time of a step, both by backprop's; the loss is written at each point."""
    base = next((row for row in found if row.way.name == BASE and row.learned), None)
    if base is None:
        return
    prepare(axes, str(setting), "time of a step (processor), by backprop's", "live bytes, by backprop's")
    for row in found:
        x = row.time("processor") / base.time("processor")
        y = row.bytes("live") / base.bytes("live")
        if not math.isnan(x + y):
            axes.plot([x], [y], "o", color=COLORS[row.way.name])
            axes.annotate(
                f"{row.way}\nloss {row.loss:.3f}",
                (x, y),
                fontsize=6,
                xytext=(4, 2),
                textcoords="offset points",
            )
    axes.set_ylim(bottom=0)


def draw_curves(axes: Any, setting: Setting, found: Sequence[Row]) -> None:
    """Validation loss over the seconds of training; the more stages, the lighter."""
    prepare(axes, str(setting), "seconds of training", "validation loss")
    stages = sorted({row.way.stages for row in found})
    for row in found:
        if row.learned:
            alpha = 1 - 0.6 * stages.index(row.way.stages) / len(stages)
            seconds, losses = zip(*row.learned.judged, strict=True)
            axes.plot(
                seconds, losses, "-o", ms=3, color=COLORS[row.way.name], alpha=alpha, label=str(row.way)
            )
    axes.legend(fontsize=6, frameon=False)


def draw_growth(axes: Any, setting: Setting, found: Sequence[Growth]) -> None:
    """Live bytes by depth."""
    prepare(axes, f"{setting.net}, stages of the same size", "layers", "live MiB")
    for each in found:
        sizes = [size / MIB for size in each.bytes["live"]]
        axes.plot(
            each.depths,
            sizes,
            "-o",
            ms=3,
            color=COLORS[each.name],
            label=f"{each.name}, loss {each.loss:.3f}",
        )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=6, frameon=False)


def draw_longest(axes: Any, setting: Setting, found: Sequence[Longest]) -> None:
    """Tokens that fit below the cap."""
    prepare(axes, f"{setting.net}, one sample below the cap", "tokens", "")
    names = [f"{each.way}\nloss {each.loss:.3f}" for each in found]
    axes.barh(names, [each.time for each in found], color=[COLORS[each.way.name] for each in found])
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()


def write(panels: Sequence[Panel], path: Path) -> None:
    """All panels in one file."""
    from matplotlib.figure import Figure  # an extra

    columns = min(len(panels), 2)
    lines = -(-len(panels) // max(columns, 1))
    figure = Figure(figsize=(6.5 * columns, 4.5 * lines), facecolor="white", layout="constrained")
    cells = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, (draw, setting, found) in zip(cells, panels, strict=False):
        draw(axes, setting, found)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    with io.BytesIO() as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), dpi=150)
        write_whole(path, file.getvalue())


def prepare(axes: Any, title: str, below: str, beside: str) -> None:
    """What all panels have in common."""
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(below, fontsize=8)
    axes.set_ylabel(beside, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
