"""Text as rows that are read from end to end, a few characters at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.unlocked.settings import CHARACTERS, text

HELD = 50_000
"""Characters of the text that are judged by, about twice as many."""
JUDGES = 20
"""Rows that they stand in."""


class Rows:
    """Ids in rows side by side; each goes on where the chunk before ended, and at its end from the start."""

    def __init__(self, ids: Tensor, rows: int) -> None:
        length = (len(ids) - 1) // rows
        self.x = ids[: rows * length].view(rows, length)
        self.y = ids[1 : rows * length + 1].view(rows, length)

    def chunks(self, time: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Ids `(rows, time)`, the ids one place further, and the rows that end with them; without end."""
        rows, length = self.x.shape
        last = length - length % time - time
        while True:
            for at in range(0, last + 1, time):
                part = slice(at, at + time)
                yield self.x[:, part], self.y[:, part], torch.full((rows,), at == last)


def rows_of(path: Path | None, batch: int) -> tuple[Rows, Rows]:
    """Rows to learn from, and rows to judge by."""
    found = text(path, HELD, CHARACTERS)
    return Rows(found.train, batch), Rows(found.test, JUDGES)
