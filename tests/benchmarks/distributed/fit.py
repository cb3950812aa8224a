"""Numbers that make errors small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_THIRDS, _TURNS = 24, 8


def fitted(errors: Callable[..., Sequence[float]], count: int, most: float) -> list[float]:
    """So many numbers from 0 to `most` whose errors have the least squares, one after another in turns.

    The squares must have one valley along each.
    """
    values = [0.0] * count
    for at in [*range(count)] * (_TURNS if count > 1 else 1):

        def squares(value: float, at: int = at) -> float:
            tried = [*values[:at], value, *values[at + 1 :]]
            return sum(each * each for each in errors(*tried))

        low, high = 0.0, most
        for _ in range(_THIRDS):
            third = (high - low) / 3
            if squares(low + third) < squares(high - third):
                high -= third
            else:
                low += third
        values[at] = low
    return values
