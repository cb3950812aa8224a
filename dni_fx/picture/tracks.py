"""Which row, column and track everything in a picture has, before it has coordinates.

Boxes stand in a grid. Wires run on tracks in the gaps between its rows and columns, and never through a box:
a wire leaves its box to the right into the channel beside it, runs down to a track in a gap between rows,
along it, and down the channel to the left of the box that reads it. One that passes over a stage does so on
a bus to the right of all boxes. The label of a joint stands on its track, below a column, where there is
no channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dni_fx.picture.scene import Scene

COLUMNS = 5
"""Boxes in a row at most."""


@dataclass(frozen=True)
class Cell:
    """Where a box stands. Column `c` lies between the channels `c` and `c + 1`."""

    row: int
    column: int


@dataclass(frozen=True)
class Net:
    """A wire from one box to some: its label's place if it has one, the line that it has in each gap.

    A gap has the number of the row above it. `home` is the gap that the source's end leads to; a gap
    for each target box is in `gap_of`. `joint` is the number of the joint, -1 for a wire within a stage.
    """

    source: int
    targets: tuple[int, ...]
    joint: int
    home: int
    gap_of: dict[int, int]
    label_column: int

    @property
    def gaps(self) -> list[int]:
        """The gaps that it has a track in."""
        return sorted({self.home, *self.gap_of.values()})

    @property
    def uses_bus(self) -> bool:
        """Whether it leads over a stage."""
        return len(self.gaps) > 1


@dataclass(frozen=True)
class Grid:
    """The cells of the boxes, the rows of the lanes, and the wires with their tracks.

    `lines` gives the line of a net in a gap, by (net, gap); lines with labels come first, `labeled` counts
    them for each gap, `plain` the others. `arcs` are wires above a row by (source, targets), `arc_levels`
    says how high each runs, and `steps` are pairs of neighbors in a row.
    """

    cells: tuple[Cell, ...]
    rows_of: tuple[range, ...]
    columns: int
    nets: tuple[Net, ...]
    lines: dict[tuple[int, int], int]
    labeled: dict[int, int]
    plain: dict[int, int]
    steps: tuple[tuple[int, int], ...]
    arcs: tuple[tuple[int, tuple[int, ...]], ...]
    arc_levels: tuple[int, ...]


def grid_of(scene: Scene) -> Grid:
    """A place for everything in a scene. O(n**2) for n wires in one gap."""
    cells, rows_of = _cells(scene)
    columns = 1 + max((cell.column for cell in cells), default=0)
    pairs = [(s, t) for s, t in scene.wires if cells[s].row == cells[t].row]
    steps = tuple((s, t) for s, t in pairs if cells[t].column == cells[s].column + 1)
    arcs = _by_source(pair for pair in pairs if pair not in steps)
    inner = _by_source(pair for pair in scene.wires if cells[pair[0]].row != cells[pair[1]].row)
    nets = [_net_of_joint(scene, number, cells, rows_of, columns) for number in range(len(scene.joints))]
    for source, targets in inner:
        below = [target for target in targets if cells[target].row > cells[source].row]
        above = [target for target in targets if cells[target].row < cells[source].row]
        if below:
            gap = cells[source].row
            nets.append(Net(source, tuple(below), -1, gap, dict.fromkeys(below, gap), -1))
        nets += [
            Net(source, (target,), -1, cells[target].row, {target: cells[target].row}, -1) for target in above
        ]
    lines, labeled, plain = _lines(nets, cells, columns)
    spans = [_arc_span(cells, source, targets) for source, targets in arcs]
    levels: dict[int, int] = {}
    for row in {cells[source].row for source, _ in arcs}:
        own = [at for at, (source, _) in enumerate(arcs) if cells[source].row == row]
        levels |= dict(zip(own, packed([spans[at] for at in own]), strict=True))
    return Grid(
        tuple(cells),
        tuple(rows_of),
        columns,
        tuple(nets),
        lines,
        labeled,
        plain,
        steps,
        tuple(arcs),
        tuple(levels[at] for at in range(len(arcs))),
    )


def packed(spans: Sequence[tuple[float, float]]) -> list[int]:
    """The line of each span: the first that is free, short spans first; spans on a line do not touch."""
    taken: list[list[tuple[float, float]]] = []
    found = [0] * len(spans)
    for at in sorted(range(len(spans)), key=lambda at: (spans[at][1] - spans[at][0], at)):
        low, high = spans[at]
        free = (n for n, line in enumerate(taken) if all(high < a or b < low for a, b in line))
        found[at] = next(free, len(taken))
        if found[at] == len(taken):
            taken.append([])
        taken[found[at]].append((low, high))
    return found


def _cells(scene: Scene) -> tuple[list[Cell], list[range]]:
    cells = [Cell(0, 0)] * len(scene.boxes)
    rows_of: list[range] = []
    row = 0
    for lane in scene.lanes:
        rows = max(1, -(-len(lane.boxes) // COLUMNS))
        width = -(-len(lane.boxes) // rows)  # rows of about the same length
        for at, box in enumerate(lane.boxes):
            cells[box] = Cell(row + at // width, at % width)
        rows_of.append(range(row, row + rows))
        row += rows
    return cells, rows_of


def _by_source(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, tuple[int, ...]]]:
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for source, target in pairs:
        groups[source].append(target)
    return [(source, tuple(targets)) for source, targets in groups.items()]


def _net_of_joint(
    scene: Scene, number: int, cells: Sequence[Cell], rows_of: Sequence[range], columns: int
) -> Net:
    joint = scene.joints[number]
    home = rows_of[scene.boxes[joint.source].stage][-1]
    gap_of = {target: rows_of[scene.boxes[target].stage][0] - 1 for target in joint.targets}
    low, high = _span(joint.source, [t for t in joint.targets if gap_of[t] == home], cells)
    if any(gap != home for gap in gap_of.values()):
        high = columns
    label = min(max(low - 1, 0) if low == high else (low + high - 1) // 2, columns - 1)
    return Net(joint.source, joint.targets, number, home, gap_of, label)


def _span(source: int, targets: Iterable[int], cells: Sequence[Cell]) -> tuple[int, int]:
    """The channels between which a wire runs along its home gap."""
    ends = [cells[source].column + 1, *(cells[target].column for target in targets)]
    return min(ends), max(ends)


def _lines(
    nets: Sequence[Net], cells: Sequence[Cell], columns: int
) -> tuple[dict[tuple[int, int], int], dict[int, int], dict[int, int]]:
    """The line of each net in each gap that it runs through, and how many lines each gap has."""
    lines: dict[tuple[int, int], int] = {}
    labeled: dict[int, int] = {}
    plain: dict[int, int] = {}
    for gap in sorted({gap for net in nets for gap in net.gaps}):
        own = [at for at, net in enumerate(nets) if gap in net.gaps]
        first = [at for at in own if nets[at].joint >= 0 and nets[at].home == gap]
        others = [at for at in own if at not in first]
        for kind, members, offset in ((labeled, first, 0), (plain, others, None)):
            spans = [_reach(nets[at], gap, cells, columns) for at in members]
            found = packed(spans)
            kind[gap] = 1 + max(found, default=-1)
            start = labeled[gap] if offset is None else offset
            lines |= {(at, gap): start + line for at, line in zip(members, found, strict=True)}
    return lines, labeled, plain


def _reach(net: Net, gap: int, cells: Sequence[Cell], columns: int) -> tuple[int, int]:
    """The channels that a net's line in a gap and its label touch; the bus is one more channel."""
    ends = [cells[target].column for target in net.targets if net.gap_of[target] == gap]
    if gap == net.home:
        ends.append(cells[net.source].column + 1)
    if gap == net.home and net.label_column >= 0:
        ends += [net.label_column, net.label_column + 1]
    if net.uses_bus:
        ends.append(columns + 1)
    return min(ends), max(ends)


def _arc_span(cells: Sequence[Cell], source: int, targets: Sequence[int]) -> tuple[float, float]:
    ends = [cells[source].column + 0.5, *(float(cells[target].column) for target in targets)]
    return min(ends), max(ends)
