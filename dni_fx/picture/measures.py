"""Measures of a picture: heights of rows and of the lines between them, widths of channels and of the bus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dni_fx.picture.tracks import Grid, packed

BOX = (178.0, 36.0)
LABEL = (178.0, 27.0)
HEAD, MARGIN, BAND = 62.0, 14.0, 132.0
"""Heights of the title and of what is left free around; the width of a lane's own words."""
_PAD, _LINE, _THIN, _SLOT = 9.0, 34.0, 6.0, 5.0
ARC = 5.0
"""How far apart the wires above a row are."""
_LOWEST = 88.0

_Key = TypeVar("_Key")


class Rows:
    """Heights: of each row's boxes, of the lines in each gap, of each lane."""

    def __init__(self, grid: Grid) -> None:
        self.top: list[float] = []
        self.first_line: dict[int, float] = {}
        self.lanes: list[tuple[float, float]] = []
        levels: defaultdict[int, int] = defaultdict(int)
        for (source, _), level in zip(grid.arcs, grid.arc_levels, strict=True):
            row = grid.cells[source].row
            levels[row] = max(levels[row], level + 1)
        at = MARGIN + HEAD
        for rows in grid.rows_of:
            start = at
            for row in rows:
                at += _PAD + (ARC * levels[row] + 4 if levels[row] else 0)
                self.top.append(at)
                at += BOX[1]
                if row != rows[-1]:
                    at = self._gap(grid, row, at)
            at = max(at + _PAD, start + _LOWEST)
            self.lanes.append((start, at))
            at = self._gap(grid, rows[-1], at + (4 if rows is not grid.rows_of[-1] else 0))
        self.height = at

    def _gap(self, grid: Grid, gap: int, at: float) -> float:
        """Set where the lines of a gap begin; where it ends."""
        self.first_line[gap] = at
        labeled, plain = grid.labeled.get(gap, 0), grid.plain.get(gap, 0)
        return at + 4 + _LINE * labeled + (_THIN * plain + 4 if plain else 0)

    def line(self, grid: Grid, net: int, gap: int) -> float:
        """The height of a net's line in a gap."""
        number, labeled = grid.lines[net, gap], grid.labeled.get(gap, 0)
        start = self.first_line[gap] + 2
        if number < labeled:
            return start + _LINE * (number + 0.5)
        return start + _LINE * labeled + _THIN * (number - labeled + 0.5) + 2

    def exit(self, grid: Grid, net: int, turn: int) -> float:
        """Where a net leaves its box."""
        return self.top[grid.cells[grid.nets[net].source].row] + BOX[1] - 5 - 3 * (turn % 4)

    def entry(self, grid: Grid, target: int, turn: int) -> float:
        """Where a net enters a box."""
        return self.top[grid.cells[target].row] + 5 + 3 * (turn % 4)


@dataclass(frozen=True)
class Ends:
    """Which of the wires at its box each end of a net is: exits by net, entries by (net, target)."""

    exits: dict[int, int]
    entries: dict[tuple[int, int], int]


def ends_of(grid: Grid) -> Ends:
    """The ends of all nets, counted at each box in the order of the nets."""
    exits: dict[int, int] = {}
    entries: dict[tuple[int, int], int] = {}
    leaving: defaultdict[int, int] = defaultdict(int)
    arriving: defaultdict[int, int] = defaultdict(int)
    for at, net in enumerate(grid.nets):
        exits[at] = leaving[net.source]
        leaving[net.source] += 1
        for target in net.targets:
            entries[at, target] = arriving[target]
            arriving[target] += 1
    return Ends(exits, entries)


class Channels:
    """Widths: of each channel, with a slot for every wire in it, and of the bus."""

    def __init__(self, grid: Grid, rows: Rows, ends: Ends) -> None:
        self.grid = grid
        out: defaultdict[int, dict[int, tuple[float, float]]] = defaultdict(dict)
        into: defaultdict[int, dict[tuple[int, int], tuple[float, float]]] = defaultdict(dict)
        bus: dict[int, tuple[float, float]] = {}
        for at, net in enumerate(grid.nets):
            heights = {gap: rows.line(grid, at, gap) for gap in net.gaps}
            start = rows.exit(grid, at, ends.exits[at])
            out[grid.cells[net.source].column + 1][at] = _ordered(start, heights[net.home])
            for target in net.targets:
                end = rows.entry(grid, target, ends.entries[at, target])
                into[grid.cells[target].column][at, target] = _ordered(heights[net.gap_of[target]], end)
            if net.uses_bus:
                bus[at] = (min(heights.values()), max(heights.values()))
        self.exit_slot, self.entry_slot = _slots(out), _slots(into)
        self.bus_slot = dict(zip(bus, packed(list(bus.values())), strict=True))
        self.bus_width = _SLOT * (1 + max(self.bus_slot.values(), default=-1)) + (8 if bus else 0)
        exits = _counts(grid, out, self.exit_slot)
        self.width = [
            18 + _SLOT * (exits[at] + count) for at, count in enumerate(_counts(grid, into, self.entry_slot))
        ]
        self.start = [MARGIN + BAND]
        for width in self.width[:-1]:
            self.start.append(self.start[-1] + width + BOX[0])

    def column(self, column: int) -> float:
        """Where a column begins."""
        return self.start[column] + self.width[column]

    def exit(self, net: int) -> float:
        """Where a net runs in the channel to the right of its source."""
        at = self.grid.cells[self.grid.nets[net].source].column + 1
        return self.start[at] + 6 + _SLOT * self.exit_slot[net]

    def entry(self, net: int, target: int) -> float:
        """Where a net runs in the channel to the left of a target."""
        at = self.grid.cells[target].column
        return self.start[at] + self.width[at] - 10 - _SLOT * self.entry_slot[net, target]

    def bus(self, net: int) -> float:
        """Where a net runs to the right of all boxes."""
        return self.start[-1] + self.width[-1] + 5 + _SLOT * self.bus_slot[net]


def _slots(channels: Mapping[int, Mapping[_Key, tuple[float, float]]]) -> dict[_Key, int]:
    found: dict[_Key, int] = {}
    for members in channels.values():
        found |= dict(zip(members, packed(list(members.values())), strict=True))
    return found


def _counts(grid: Grid, channels: Mapping[int, Mapping[_Key, Any]], slots: Mapping[_Key, int]) -> list[int]:
    """How many slots each channel needs."""
    members = (channels.get(at, {}) for at in range(grid.columns + 1))
    return [1 + max((slots[key] for key in each), default=-1) for each in members]


def _ordered(one: float, other: float) -> tuple[float, float]:
    return min(one, other), max(one, other)
