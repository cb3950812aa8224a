"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from passes.errors import SpecError

_STEPS = ("", "k", "M", "G", "T", "P")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """The bytes that a text such as `2GiB`, `500MB` or `1073741824` stands for, a part of one dropped.

    `k`, `M`, `G`, `T` and `P` are powers of 1000, and of 1024 with an `i` behind them.

    Raises:
        SpecError: the text is no size, or one of nothing.

    >>> parse_bytes("1.5GiB")
    1610612736
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise SpecError(f"{text!r} is no size of memory. Write one such as 8GiB, 500MB or 1073741824.")
    whole, _, part = found[1].partition(".")
    unit = (1024 if found[3] else 1000) ** [step.lower() for step in _STEPS].index(found[2].lower())
    count = int(whole + part) * unit // 10 ** len(part)  # in integers, so that no digit is rounded
    if count < 1:
        raise SpecError(f"{text!r} is no memory at all. Write a size such as 8GiB or 500MB.")
    return count


def show_count(count: float) -> str:
    """A number to two digits or more, in thousands, millions and so on; below a thousand as it is.

    >>> show_count(0), show_count(999), show_count(1234), show_count(567_800_000)
    ('0', '999', '1.2 k', '568 M')
    """
    return _show(count, "").rstrip()


def show_bytes(count: float) -> str:
    """A size to two digits or more, in units of powers of 1000.

    >>> show_bytes(999), show_bytes(5_600_000), show_bytes(2 * 1024**3)
    ('999 B', '5.6 MB', '2.1 GB')
    """
    return _show(count, "B")


def _show(count: float, unit: str) -> str:
    at, value = 0, float(count)
    while value >= 999.5 and at < len(_STEPS) - 1:
        at, value = at + 1, value / 1000
    digits = f"{value:.1f}" if at and value < 99.95 else f"{value:.0f}"
    return f"{digits} {_STEPS[at]}{unit}"
