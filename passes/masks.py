"""Sets of values as bit masks in Python integers: bit i is the i-th carrying value in graph order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def mask_of(places: Iterable[int]) -> int:
    """The mask with these bits.

    >>> bin(mask_of([0, 3]))
    '0b1001'
    """
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask


def bits_of(mask: int) -> Iterator[int]:
    """The places of the bits in a mask, from low to high.

    >>> list(bits_of(0b1001))
    [0, 3]
    """
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
