"""Colors of stages and of cost, told apart by color-blind eyes, by their lightness also in grey."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito 2008, https://jfly.uni-koeln.de/color, without black and without yellow, faint on white.
_STAGES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
HEAT = ("#fffdf0", "#fee391", "#fec44f", "#fe9929", "#d95f0e")
"""From cheap to expensive; the lightness falls from each color to the next, and black can be read on all."""


def stage_color(stage: int) -> str:
    """The color of a stage; neighbors differ."""
    return _STAGES[stage % len(_STAGES)]


def heat(share: float) -> str:
    """The color of a cost as a share of the largest, from 0 to 1."""
    at = min(max(share, 0.0), 1.0) * (len(HEAT) - 1)
    low = min(int(at), len(HEAT) - 2)
    return mixed(HEAT[low], HEAT[low + 1], at - low)


def mixed(one: str, other: str, share: float) -> str:
    """A color between two.

    >>> mixed("#000000", "#ffffff", 0.5)
    '#808080'
    """
    pairs = zip(_parts(one), _parts(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share + 1e-9):02x}" for a, b in pairs)


def _parts(color: str) -> Sequence[int]:
    return [int(color[at : at + 2], 16) for at in (1, 3, 5)]
