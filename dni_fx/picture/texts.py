"""Texts of a picture, shortened to the room that they have."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

FAMILY = "DejaVu Sans"
"""Comes with matplotlib, so a text is as wide everywhere."""


def fitted(text: str, width: float, size: float, weight: str = "normal") -> str:
    """The text, without so much of its middle that it is no wider than `width` points."""
    return shortened(text, lambda part: width_of(part, size, weight) <= width)


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The text if it fits, else its two ends around an ellipsis, as long as that fits.

    >>> shortened("encoder.layers.10.attention", lambda text: len(text) <= 11)
    'encod…ntion'
    """
    if fits(text):
        return text
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_ends(text, middle)) else (low, middle)
    return _ends(text, low)


def width_of(text: str, size: float, weight: str = "normal") -> float:
    """How wide a text is, in points, at most: hinting makes it a little wider or narrower on a screen."""
    paths: Any = TextToPath()
    width, _, _ = paths.get_text_width_height_descent(text, _font(size, weight), ismath=False)
    return 1.05 * float(width)


@cache
def _font(size: float, weight: str) -> FontProperties:
    return FontProperties(family=FAMILY, size=size, weight=weight)


def _ends(text: str, letters: int) -> str:
    """So many letters of a text, half from each end."""
    last = letters // 2
    return f"{text[: letters - last]}…{text[len(text) - last :] if last else ''}"
