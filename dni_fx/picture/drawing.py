"""A scene drawn with matplotlib."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon, Rectangle

from dni_fx.palette import heat, mixed, stage_color
from dni_fx.picture.layout import Layout, Line, Rect, Wire, layout_of
from dni_fx.picture.measures import BAND, MARGIN
from dni_fx.picture.scene import Box, Joint, Lane, Scene
from dni_fx.picture.texts import FAMILY, fitted, width_of
from dni_fx.picture.words import facts_of_box, facts_of_joint, kind_of, noun, percent
from passes.bytes import show_bytes
from passes.words import counted

_POINTS = 72.0
_DASHES: Any = (0, (4, 2.5))
_WIDE, _KEY = 560.0, 190.0
_DARK, _GREY, _PALE = "#1a1a1a", "#595959", "#9a9a9a"
_TITLE, _LARGE, _SMALL = 12.0, 8.0, 7.0


def figure_of(scene: Scene) -> Figure:
    """A figure of the scene, an inch for each 72 points; its parts have ids: `box-3`, `joint-0`, `lane-1`."""
    layout = layout_of(scene)
    width = max(layout.width, _WIDE)
    figure = Figure(figsize=(width / _POINTS, layout.height / _POINTS), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(layout.height, 0))
    axes.set_axis_off()
    _Pen(axes, scene, layout, width).draw()
    return figure


class _Pen:
    """Draws one scene into axes whose unit is a point."""

    def __init__(self, axes: Any, scene: Scene, layout: Layout, width: float) -> None:
        self.axes, self.scene, self.layout, self.width = axes, scene, layout, width
        self.largest = max((box.cost for box in scene.boxes), default=0.0)

    def draw(self) -> None:
        self._title()
        for lane, place in zip(self.scene.lanes, self.layout.lanes, strict=True):
            self._lane(lane, place)
        for wire in self.layout.wires:
            self._wire(wire)
        for number, (box, place) in enumerate(zip(self.scene.boxes, self.layout.boxes, strict=True)):
            self._box(number, box, place)
        for number, (joint, place) in enumerate(zip(self.scene.joints, self.layout.labels, strict=True)):
            self._joint(number, joint, place)

    def _title(self) -> None:
        scene, nodes = self.scene, sum(lane.nodes for lane in self.scene.lanes)
        learned = [joint for joint in scene.joints if joint.name]
        sent = sum(joint.bytes for joint in learned)
        room = self.width - 2 * MARGIN - _KEY
        title = f"{counted(len(scene.lanes), 'stage')}, balance {scene.balance:.3f}"
        self._text(MARGIN, MARGIN + 6, title, _TITLE, "bold", width=room)
        about = [
            f"max / mean {noun(scene)} of a stage",
            f"{scene.amount(scene.cost)} in all" if scene.cost else "no cost is known",
            counted(nodes, "node"),
            f"{counted(len({joint.name for joint in learned}), 'boundary')}, {show_bytes(sent)}",
        ]
        self._text(MARGIN, MARGIN + 22, "  ·  ".join(about), _LARGE, color=_GREY, width=room)
        self._text(MARGIN, MARGIN + 36, f"plan {scene.policy}", _LARGE, color=_GREY, width=room)
        self._legend(self.width - MARGIN - _KEY)

    def _legend(self, x: float) -> None:
        """The scale of the heat, and what the lines mean."""
        steps, width = 40, 100.0
        for step in range(steps):
            color = heat(step / (steps - 1))
            self._rectangle(Rect(x + 90 + width * step / steps, MARGIN, width / steps, 9), color, color)
        self._text(x + 84, MARGIN + 5, f"{noun(self.scene)} of a box", _SMALL, color=_GREY, align="right")
        self._text(x + 90, MARGIN + 16, "0", _SMALL, color=_GREY)
        share = percent(self.scene.share(self.largest))
        self._text(x + 90 + width, MARGIN + 16, share, _SMALL, color=_GREY, align="right")
        self._line(((x + 90, MARGIN + 28), (x + 112, MARGIN + 28)), stage_color(0), 2.0)
        self._text(x + 116, MARGIN + 28, "boundary (gradient)", _SMALL, color=_GREY)
        self._line(((x + 90, MARGIN + 40), (x + 112, MARGIN + 40)), stage_color(0), 1.0, dashed=True)
        self._text(x + 116, MARGIN + 40, "no gradient", _SMALL, color=_GREY)

    def _lane(self, lane: Lane, place: Rect) -> None:
        color, scene = stage_color(lane.stage), self.scene
        pale, edge = mixed("#ffffff", color, 0.1), mixed("#ffffff", color, 0.35)
        self._rectangle(place, pale, edge, f"lane-{lane.stage}")
        self._rectangle(Rect(place.x, place.y, 5, place.height), color, color)
        x, y, room = place.x + 13, place.y + 13, BAND - 24
        self._text(x, y, f"stage {lane.stage}", 10.0, "bold", width=room)
        most = max((each.cost for each in scene.lanes), default=0.0)
        self._rectangle(Rect(x, y + 9, room, 4), "#ffffff", color, line=0.5)
        self._rectangle(Rect(x, y + 9, room * lane.cost / most if most else 0.0, 4), color, color, line=0.5)
        facts = [
            f"{percent(scene.share(lane.cost))}  ·  {scene.amount(lane.cost)}",
            f"{lane.nodes:,} {'node' if lane.nodes == 1 else 'nodes'}",
            f"parameters {show_bytes(lane.parameter_bytes)}",
            f"saved {show_bytes(lane.saved)}",
        ]
        facts += [f"reads {', '.join(lane.inputs)}"] if lane.inputs else []
        for at, fact in enumerate(facts):
            self._text(x, y + 22 + 11 * at, fact, _SMALL, color=_GREY, width=room)

    def _box(self, number: int, box: Box, place: Rect) -> None:
        color = heat(box.cost / self.largest if self.largest else 0.0)
        self._rectangle(place, color, "#404040", f"box-{number}", line=0.7)
        room = place.width - 12
        self._text(place.x + 6, place.y + 11, box.fold.label, _LARGE, "bold", _DARK, room)
        kind, facts = kind_of(box), facts_of_box(self.scene, box)
        kind = fitted(kind, room - width_of(facts, _SMALL) - 14, _SMALL) if kind else ""
        facts = f"{kind}  ·  {facts}" if kind else facts
        self._text(place.x + 6, place.y + 25, facts, _SMALL, "normal", _DARK, room)

    def _joint(self, number: int, joint: Joint, place: Rect) -> None:
        color = stage_color(self.scene.boxes[joint.source].stage)
        self._rectangle(
            place, "#ffffff", color, f"joint-{number}", line=1.6 if joint.name else 0.8, dashed=not joint.name
        )
        room = place.width - 12
        more = joint.anchor.lstrip(":")
        self._text(place.x + 6, place.y + 9, more, _SMALL, "bold" if joint.name else "normal", _DARK, room)
        self._text(place.x + 6, place.y + 19, facts_of_joint(joint), _SMALL, color=_GREY, width=room)

    def _wire(self, wire: Wire) -> None:
        if wire.joint < 0:
            color, thick, dashed = _PALE, 0.8, False
        else:
            joint = self.scene.joints[wire.joint]
            color = stage_color(self.scene.boxes[joint.source].stage)
            thick, dashed = (2.0, False) if joint.name else (1.0, True)
        for stroke in wire.strokes:
            self._line(stroke, color, thick, dashed)
        for at in wire.dots:
            self.axes.add_patch(Circle(at, 1.2 + thick, color=color, linewidth=0, zorder=3))
        for tip in wire.tips:
            self._line(tip, color, thick, dashed)
            self._arrow(tip, color, 3.0 if thick < 2 else 4.0)

    def _arrow(self, tip: Line, color: str, size: float) -> None:
        (x0, y0), (x1, y1) = tip[-2:]
        across = abs(x1 - x0) >= abs(y1 - y0)
        forth = size * 1.6 * (1 if (x1 > x0 if across else y1 > y0) else -1)
        ends = (
            [(x1 - forth, y1 - size), (x1 - forth, y1 + size)]
            if across
            else [(x1 - size, y1 - forth), (x1 + size, y1 - forth)]
        )
        self.axes.add_patch(Polygon([(x1, y1), *ends], closed=True, color=color, linewidth=0, zorder=3))

    def _line(self, points: Line, color: str, thick: float, dashed: bool = False) -> None:
        line = Line2D([x for x, _ in points], [y for _, y in points], color=color, linewidth=thick)
        line.set(linestyle=_DASHES if dashed else "solid", zorder=1.5 + 0.1 * thick)
        line.set(solid_joinstyle="miter", solid_capstyle="projecting")
        self.axes.add_line(line)

    def _rectangle(
        self, at: Rect, fill: str, edge: str, gid: str | None = None, line: float = 0.6, dashed: bool = False
    ) -> None:
        patch = Rectangle(
            (at.x, at.y),
            at.width,
            at.height,
            facecolor=fill,
            edgecolor=edge,
            linewidth=line,
            linestyle=_DASHES if dashed else "solid",
            zorder=4 if gid and not gid.startswith("lane") else 1,
        )
        patch.set_gid(gid)
        self.axes.add_patch(patch)

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        weight: str = "normal",
        color: str = _DARK,
        width: float = 0.0,
        align: str = "left",
    ) -> None:
        if width:
            text = fitted(text, width, size, weight)
        self.axes.text(
            x,
            y,
            text,
            fontsize=size,
            fontweight=weight,
            fontfamily=FAMILY,
            color=color,
            ha=align,
            va="center_baseline",
            parse_math=False,
            zorder=5,
        )
