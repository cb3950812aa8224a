"""How much of this machine goes to others than the ranks of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)
"""Where a line of /proc/stat has the time in which nothing runs."""
_ONCE = 8
"""How many of its figures count: those behind them are parts of the first."""


class Others:
    """Tells on all ranks which share of all processors went to others since it was asked the last time."""

    def __init__(self) -> None:
        self.last = _now()

    def share(self) -> float:
        """All ranks must ask at once."""
        now = _now()
        wall, busy, own = (after - before for after, before in zip(now, self.last, strict=True))
        told = torch.tensor([own], dtype=torch.float64)
        dist.all_reduce(told)
        share = torch.tensor([max(busy - float(told), 0.0) / (wall * (os.cpu_count() or 1))])
        dist.broadcast(share, 0)
        self.last = _now()
        return float(share)


def quietest(shares: Sequence[float]) -> list[int]:
    """The third of the rounds in which others had least, in order."""
    third = (len(shares) + 2) // 3
    return sorted(sorted(range(len(shares)), key=lambda at: shares[at])[:third])


def _now() -> tuple[float, float, float]:
    """Seconds by the clock, of all processors at work, and of this process."""
    figures = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1 : _ONCE + 1]
    busy = sum(int(each) for at, each in enumerate(figures) if at not in _IDLE) / _TICKS
    return time.perf_counter(), busy, time.process_time()
