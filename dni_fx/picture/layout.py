"""Coordinates of everything in a picture, in points of a page that grows downwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dni_fx.picture.measures import ARC, BOX, LABEL, MARGIN, Channels, Ends, Rows, ends_of
from dni_fx.picture.scene import Scene
from dni_fx.picture.tracks import Grid, Net, grid_of

Point = tuple[float, float]
Line = tuple[Point, ...]


@dataclass(frozen=True)
class Rect:
    """A rectangle by its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Where it ends."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Where it ends, below."""
        return self.y + self.height


@dataclass(frozen=True)
class Wire:
    """Lines of one wire: `strokes` plain, `tips` with an arrow at the last point, `dots` where it branches.

    `joint` is -1 within a stage.
    """

    joint: int
    strokes: tuple[Line, ...]
    tips: tuple[Line, ...]
    dots: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A rectangle for each lane, box and joint of a scene, by number, and the wires."""

    width: float
    height: float
    lanes: tuple[Rect, ...]
    boxes: tuple[Rect, ...]
    labels: tuple[Rect, ...]
    wires: tuple[Wire, ...]


def layout_of(scene: Scene) -> Layout:
    """The place of everything. No two rectangles of boxes or labels overlap, and no wire runs through one."""
    grid = grid_of(scene)
    rows = Rows(grid)
    ends = ends_of(grid)
    channels = Channels(grid, rows, ends)
    boxes = tuple(Rect(channels.column(cell.column), rows.top[cell.row], *BOX) for cell in grid.cells)
    right = channels.start[grid.columns] + channels.width[grid.columns]
    lanes = tuple(Rect(MARGIN, top, right - MARGIN, bottom - top) for top, bottom in rows.lanes)
    labels = tuple(
        Rect(
            channels.column(net.label_column),
            rows.line(grid, at, net.home) - LABEL[1] / 2,
            *LABEL,
        )
        for at, net in enumerate(grid.nets)
        if net.joint >= 0
    )
    router = _Router(grid, rows, channels, boxes, ends)
    return Layout(
        right + channels.bus_width + MARGIN,
        rows.height + MARGIN,
        lanes,
        boxes,
        labels,
        (*router.steps(), *router.arcs(), *(router.net(at) for at in range(len(grid.nets)))),
    )


@dataclass(frozen=True)
class _Router:
    """Lines through the gaps and channels."""

    grid: Grid
    rows: Rows
    channels: Channels
    boxes: Sequence[Rect]
    ends: Ends

    def steps(self) -> Iterator[Wire]:
        """Straight arrows between neighbors."""
        for source, target in self.grid.steps:
            one, other = self.boxes[source], self.boxes[target]
            y = one.y + one.height / 2
            yield Wire(-1, (), (((one.right, y), (other.x, y)),))

    def arcs(self) -> Iterator[Wire]:
        """Wires above a row, over the boxes that they pass."""
        for (source, targets), level in zip(self.grid.arcs, self.grid.arc_levels, strict=True):
            one = self.boxes[source]
            y, x = one.y - 5 - ARC * level, one.right - 10
            ends = [self.boxes[target].x + 10 for target in targets]
            across = ((min(x, *ends), y), (max(x, *ends), y))
            tips = [
                ((end, y), (end, self.boxes[target].y)) for end, target in zip(ends, targets, strict=True)
            ]
            yield Wire(-1, (((x, one.y), (x, y)), across), tuple(tips))

    def net(self, number: int) -> Wire:
        """A wire along its tracks; lines that lie on one another are one line."""
        net = self.grid.nets[number]
        x, home = self.channels.exit(number), self.rows.line(self.grid, number, net.home)
        start = self.rows.exit(self.grid, number, self.ends.exits[number])
        dots: list[Point] = []
        strokes: list[Line] = [((self.boxes[net.source].right, start), (x, start), (x, home))]
        for gap in net.gaps:
            y = self.rows.line(self.grid, number, gap)
            across = [self.channels.entry(number, t) for t in net.targets if net.gap_of[t] == gap]
            across += [x] if gap == net.home else []
            across += [self.channels.bus(number)] if net.uses_bus else []
            ends = list(across)
            if gap == net.home and net.label_column >= 0:
                label = self.channels.column(net.label_column)
                ends.append(label if max(ends) > label else label + LABEL[0])
            strokes.append(((min(ends), y), (max(ends), y)))
            dots += [(each, y) for each in across if min(ends) < each < max(ends)]
        if net.uses_bus:
            heights = [self.rows.line(self.grid, number, gap) for gap in net.gaps]
            bus = self.channels.bus(number)
            strokes.append(((bus, min(heights)), (bus, max(heights))))
        tips = tuple(self._tip(number, net, target) for target in net.targets)
        return Wire(net.joint, tuple(strokes), tips, tuple(dots) if net.joint >= 0 else ())

    def _tip(self, number: int, net: Net, target: int) -> Line:
        x, y = self.channels.entry(number, target), self.rows.line(self.grid, number, net.gap_of[target])
        end = self.rows.entry(self.grid, target, self.ends.entries[number, target])
        return (x, y), (x, end), (self.boxes[target].x, end)
