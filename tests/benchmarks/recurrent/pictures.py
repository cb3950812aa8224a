"""Figures of recurrent nets as panels of a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.benchmarks.unlocked.pictures import prepare
from tests.benchmarks.unlocked.rows import MIB

COLORS = {"bptt": "black", "dni": "#d55e00", "dni-aux": "#0072b2", "full": "#8c8c8c", "local": "#009e73"}


def draw_lengths(axes: Any, setting: Any, found: Sequence[Any]) -> None:
    """The longest sequence that was modelled after so many updates, a line for each seed."""
    prepare(axes, str(setting), "updates", "longest sequence")
    for each in found:
        for number, run in enumerate(each.runs):
            places = [0, *(update for update, *_ in run["passed"]), run["updates"]]
            lengths = [0, *(length for _, length, _ in run["passed"])]
            axes.step(
                places,
                [*lengths, lengths[-1]],
                where="post",
                color=COLORS[each.row],
                label="_" if number else each.row,
            )
    axes.legend(fontsize=6, frameon=False)


def draw_losses(axes: Any, setting: Any, found: Sequence[Any]) -> None:
    """Bits for each character of held-out text after so many characters, a line for each seed."""
    prepare(axes, str(setting), "characters seen", "bits a character")
    for each in found:
        for number, run in enumerate(each.runs):
            seen, bits = zip(*run["judged"], strict=True)
            style = {"color": COLORS[each.kind], "alpha": each.shade}
            axes.plot(seen, bits, label="_" if number else each.row, **style)
    axes.legend(fontsize=6, frameon=False)


def draw_memory(axes: Any, setting: Any, found: Sequence[Any]) -> None:
    """Live bytes by the length of the sequence, as far as it fits."""
    prepare(axes, str(setting), "steps", "live MiB")
    for each in found:
        fits = [(length, size / MIB) for length, size in zip(each.lengths, each.live, strict=True) if size]
        if fits:
            axes.plot(*zip(*fits, strict=True), "-o", ms=3, color=COLORS[each.row], label=each.row)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=6, frameon=False)
