"""The figures of a training drawn with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dni_fx.history import FIGURES, Record

Numbers = NDArray[np.float64]

_SIZE, _SMALL = (11.0, 8.5), (7.0, 4.0)
_NAMED, _LETTERS, _COLUMNS = 11, 26, 6
_FEW, _MANY = 4, 12
"""Up to so many boundaries are drawn step by step, and in thick lines; of more nothing could be seen then."""
_PARTS = 25
"""A mean is over this part of all records."""
_GREY, _LOCKED = "#8c8c8c", "#d55e00"
_CURVES = (
    ("cosine", "cosine of guess and true gradient", 0.0),
    ("sign", "part of the signs that agree", 0.5),
    ("error", "error in lengths of the true gradient (1: a guess of zeros)", 1.0),
    ("scale", "root mean square of the true gradient of a sample", None),
)


@dataclass(frozen=True)
class _Table:
    """A history by columns: each figure is `(boundaries, records)`, nan where there is none."""

    steps: Numbers
    loss: Numbers
    names: list[str]
    figures: dict[str, Numbers]
    locked: NDArray[np.bool_]

    @property
    def window(self) -> int:
        """Over how many records means are taken."""
        return max(1, len(self.steps) // _PARTS) | 1

    @property
    def colors(self) -> list[Any]:
        """A color for each boundary, from dark to light by depth."""
        return [colormaps["viridis"](place) for place in np.linspace(0.0, 0.83, max(len(self.names), 2))]


def figure_of(history: Sequence[Record]) -> Figure:
    """Loss, cosine, sign agreement, error, scale and mix over the steps; the loss alone if nothing is cut."""
    table = _table(history)
    figure = Figure(figsize=_SIZE if table.names else _SMALL, facecolor="white", layout="constrained")
    if not table.names:
        _draw_loss(figure.subplots(), table)
        return figure
    cells: Any = figure.subplots(3, 2, sharex=True).flatten()
    _draw_loss(cells[0], table)
    for axes, (name, title, reference) in zip(cells[1:], _CURVES, strict=False):
        _draw_figure(axes, table, name, title, reference)
    _draw_mix(cells[-1], table)
    for axes in cells[-2:]:
        axes.set_xlabel("step")
    _add_legend(figure, table)
    return figure


def _table(history: Sequence[Record]) -> _Table:
    names = list(dict.fromkeys(name for record in history for name in record.boundaries))
    rows = [[record.boundaries.get(name) for record in history] for name in names]
    figures = {
        figure: np.array([[math.nan if d is None else getattr(d, figure) for d in row] for row in rows])
        for figure in FIGURES
    }
    locked = np.array([[d is not None and d.locked for d in row] for row in rows], dtype=bool)
    steps = np.array([record.step for record in history], dtype=np.float64)
    return _Table(steps, np.array([record.loss for record in history]), names, figures, locked)


def _draw_loss(axes: Any, table: _Table) -> None:
    _prepare(axes, "loss")
    loss = np.where(np.isfinite(table.loss), table.loss, math.nan)
    axes.plot(table.steps, loss, color=_GREY, linewidth=0.6, alpha=0.6, marker=_marker(table))
    axes.plot(table.steps, _smooth(loss, table.window), color="black", linewidth=1.5)


def _draw_figure(axes: Any, table: _Table, name: str, title: str, reference: float | None) -> None:
    _prepare(axes, title)
    values = np.where(np.isfinite(table.figures[name]), table.figures[name], math.nan)
    if reference is not None:
        axes.axhline(reference, color=_GREY, linewidth=0.8, linestyle="--")
    width = 1.5 if len(table.names) <= _MANY else 0.9
    for row, locked, color in zip(values, table.locked, table.colors, strict=False):
        if len(table.names) <= _FEW:
            axes.plot(table.steps, row, color=color, linewidth=0.5, alpha=0.3)
        smooth = _smooth(row, table.window)
        free = ~locked | np.roll(~locked, 1)  # no gap where a lock begins
        solid, dotted = np.where(free, smooth, math.nan), np.where(locked, smooth, math.nan)
        axes.plot(table.steps, solid, color=color, linewidth=width, marker=_marker(table))
        axes.plot(table.steps, dotted, color=color, linewidth=width, linestyle=":")
    match name:
        case "scale":
            if np.any(values > 0):
                axes.set_yscale("log", nonpositive="mask")
        case "error":
            axes.set_ylim(0, _top(values))
        case _:
            axes.set_ylim(min(reference or 0.0, _least(values)) - 0.03, 1.03)


def _draw_mix(axes: Any, table: _Table) -> None:
    """A row for each boundary: the darker, the more of the true gradient goes up."""
    _prepare(axes, "part of the true gradient that goes up: 0 is white, 1 is grey")
    axes.grid(False)
    axes.spines[["top", "right"]].set_visible(True)
    mix = np.nan_to_num(table.figures["mix"])
    shade = np.ones((*mix.shape, 4))
    shade[..., :3] = 1 - 0.5 * mix[..., None]
    shade[table.locked] = to_rgba(_LOCKED)
    half = (table.steps[-1] - table.steps[0]) / max(2 * (len(table.steps) - 1), 1) or 0.5
    bottom = len(table.names) - 0.5
    sides = (table.steps[0] - half, table.steps[-1] + half, bottom, -0.5)
    axes.imshow(shade, aspect="auto", interpolation="nearest", extent=sides)
    shown = _spread(len(table.names), _NAMED)
    axes.set_yticks(shown, [_short(table.names[at]) for at in shown], fontsize=7)
    for at, color in enumerate(table.colors[: len(table.names)]):
        axes.axhspan(at - 0.5, at + 0.5, xmax=0.008, color=color)
    if table.locked.any():
        axes.set_title("locked", color=_LOCKED, fontsize=9, loc="right")


def _prepare(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, table: _Table) -> None:
    shown = _spread(len(table.names), _NAMED)
    lines = [Line2D([], [], color=table.colors[at], label=_short(table.names[at])) for at in shown]
    if table.locked.any():
        lines.append(Line2D([], [], color=_GREY, linestyle=":", label="locked"))
    some = f"{len(shown)} of {len(table.names)} boundaries" if len(shown) < len(table.names) else "boundaries"
    means = f"; means over {table.window} points" if table.window > 1 else ""
    title = f"{some}, from first to last{means}"
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=_COLUMNS,
        fontsize=8,
        title=title,
        title_fontsize=8,
        frameon=False,
    )


def _smooth(values: Numbers, window: int) -> Numbers:
    """The mean of the finite values around each one; nan where it is nan itself."""
    here = np.isfinite(values)
    box = np.ones(window)
    count = np.convolve(here.astype(np.float64), box, "same")
    total = np.convolve(np.where(here, values, 0.0), box, "same")
    return np.where(here, total / np.maximum(count, 1), math.nan)


def _spread(count: int, most: int) -> list[int]:
    """At most so many places from 0 to `count`, both ends among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _top(values: Numbers) -> float:
    """An upper end that a few large errors do not push away from all others."""
    finite = values[np.isfinite(values)]
    return max(1.1, 1.05 * float(np.quantile(finite, 0.98))) if finite.size else 1.1


def _least(values: Numbers) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if finite.size else 0.0


def _marker(table: _Table) -> str | None:
    return "o" if len(table.steps) == 1 else None


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS // 2]}…{name[1 - _LETTERS // 2 :]}"
