"""How memory grows with depth at stages of the same size, and how long a sample fits below a cap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from rich.table import Table

from tests.benchmarks.unlocked.measures import live_of, memory_of
from tests.benchmarks.unlocked.meters import isolated
from tests.benchmarks.unlocked.records import Book
from tests.benchmarks.unlocked.rows import BASE, MIB, learned, number, ratio
from tests.benchmarks.unlocked.settings import Setting
from tests.benchmarks.unlocked.ways import CUT, Way

KINDS = {"live": "live", "activations": "without gradients"}
FINENESS = 16
"""The longest sample is found to the sixteenth part of a power of two."""


@dataclass(frozen=True)
class Growth:
    """Bytes of one way at each depth, by kind, and the loss that it reaches at the greatest depth."""

    name: str
    depths: tuple[int, ...]
    bytes: dict[str, tuple[float, ...]]
    loss: float

    def slope(self, kind: str) -> float:
        """Bytes a layer, by least squares."""
        return float(np.polyfit(self.depths, self.bytes[kind], 1)[0])


def growth(
    book: Book,
    setting: Setting,
    way: Sequence[Way],
    depths: Sequence[int],
    per_stage: int,
    time: tuple[float, str],
) -> list[Growth]:
    """The memory of each way where every stage has `per_stage` layers, at several depths."""
    setting.load()  # once for all processes
    found: dict[str, dict[str, list[float]]] = {}
    for each in way:
        kinds = found.setdefault(each.name, {kind: [] for kind in KINDS})
        for depth in depths:
            of = replace(setting, depth=depth), replace(each, stages=_stages(each, depth, per_stage))
            key = f"memory {of[0].key} {of[1].key}"
            figures = book.figures(key, lambda of=of: asdict(isolated(memory_of, *of))) or {}
            for kind, known in kinds.items():
                known.append(float("nan") if figures.get(kind) is None else figures[kind])
    deepest = replace(setting, depth=max(depths))
    jobs = [(deepest, replace(each, stages=_stages(each, max(depths), per_stage))) for each in way]
    losses = learned(book, [job for job in jobs if _is_known(found[job[1].name])], *time)
    return [
        Growth(
            way.name,
            tuple(depths),
            {kind: tuple(known) for kind, known in found[way.name].items()},
            losses[setting, way].loss if (setting, way) in losses else float("nan"),
        )
        for setting, way in jobs
    ]


def _is_known(kinds: dict[str, list[float]]) -> bool:
    return not any(math.isnan(size) for size in kinds["live"])


def _stages(way: Way, depth: int, per_stage: int) -> int:
    return max(depth // per_stage, 1) if way.name in CUT else 1


def growth_table(setting: Setting, found: Sequence[Growth], per_stage: int, time: tuple[float, str]) -> Table:
    """Bytes at each depth and their slope, alone and by that of backprop."""
    depths = found[0].depths
    title = (
        f"{setting.net}, stages of {per_stage} layers: MiB by depth; "
        f"losses at depth {max(depths)} after {time[0]:g} s of {time[1]} time"
    )
    made = Table("", title=title, title_justify="left")
    for kind in KINDS.values():
        for name in (*(f"{kind}, {depth}" for depth in depths), "MiB a layer", "x"):
            made.add_column(name, justify="right")
    made.add_column("loss", justify="right")
    base = next((each for each in found if each.name == BASE), None)
    for each in found:
        cells = []
        for kind in KINDS:
            cells += [number(size / MIB, 1) for size in each.bytes[kind]]
            cells += [number(each.slope(kind) / MIB, 3), ratio(each.slope(kind), base and base.slope(kind))]
        made.add_row(each.name, *cells, number(each.loss, 4))
    return made


@dataclass(frozen=True)
class Longest:
    """The longest sample that a way trains on below the cap, its bytes, and the loss that it reaches."""

    way: Way
    time: int
    bytes: int
    loss: float


def longest(
    book: Book, setting: Setting, way: Sequence[Way], cap: int, start: int, most: int, time: tuple[float, str]
) -> list[Longest]:
    """How long a single sample each way can train on: twice as long until it does not fit, then by halves."""
    setting.load()
    found = {}
    for each in way:

        def measured(length: int, each: Way = each) -> float:
            of = replace(setting, batch=1, time=length)
            key = f"live {of.key} {each.key}"
            return book.figures(key, lambda: isolated(live_of, of, each)) or float("inf")

        length = search(lambda length, m=measured: m(length) <= cap, start, most)
        found[each] = length, measured(length) if length else 0
    jobs = [(replace(setting, batch=1, time=length), way) for way, (length, _) in found.items() if length]
    losses = learned(book, jobs, *time)
    by_way = {way: each.loss for (_, way), each in losses.items()}
    return [Longest(way, *found[way], by_way.get(way, float("nan"))) for way in found]


def search(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The greatest number that fits, to a sixteenth of the power of two below it; 0 if `start` does not.

    >>> search(lambda length: length <= 700, 64, 4096), search(lambda length: False, 64, 4096)
    (672, 0)
    """
    if not fits(start):
        return 0
    low = start
    while low * 2 <= most and fits(low * 2):
        low *= 2
    high, step = min(low * 2, most), max(low // FINENESS, 1)
    while high - low > step:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def longest_table(setting: Setting, found: Sequence[Longest], cap: int, time: tuple[float, str]) -> Table:
    """The longest samples, and each by backprop's."""
    title = (
        f"{setting.net}, depth {setting.depth}, width {setting.width}, one sample, "
        f"below {cap / MIB:.1f} MiB live; "
        f"losses after {time[0]:g} s of {time[1]} time"
    )
    made = Table("", "tokens", "x", "live MiB", "loss", title=title, title_justify="left")
    base = next((each.time for each in found if each.way.name == BASE), 0)
    for each in found:
        cells = f"{each.time:,}", ratio(each.time, base), number(each.bytes / MIB, 1), number(each.loss, 4)
        made.add_row(str(each.way), *cells)
    return made
