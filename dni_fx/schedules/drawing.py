"""Simulated timetables as a picture: a row for each rank, a box for what it does, time to the right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from dni_fx.palette import stage_color
from dni_fx.schedules.actions import RECEIVES, SENDS, Action, Kind
from dni_fx.schedules.outcome import Outcome, Span

_NAMES = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.INPUT_GRADIENT: "backward, of what it reads",
    Kind.WEIGHT_GRADIENT: "backward, of parameters",
    Kind.SYNTHETIC_BACKWARD: "backward from a guess",
    Kind.REGRESSION: "synthesizers learn",
    Kind.STEP: "update",
    Kind.SEND_VALUE: "handles messages",
    Kind.SEND_GRADIENT: "handles messages",
    Kind.RECEIVE_VALUE: "handles messages",
    Kind.RECEIVE_GRADIENT: "handles messages",
}
_STEP, _MESSAGE, _WAIT, _GREY = "#404040", "#8c8c8c", "#ececec", "#595959"
_PLAIN = {Kind.STEP: _STEP} | dict.fromkeys((*SENDS, *RECEIVES), _MESSAGE)
_COLORS = {kind: stage_color(at) for at, kind in enumerate(_NAMES)} | _PLAIN
_LEFT, _WIDTH, _ROW, _GAP, _HEAD = 70, 1000, 16, 2, 34
_RANKS = 48
"""Ranks that a picture shows: of more, the first and the last of them."""
_NARROW = 3
"""Points that a box is wide, if it is one of many."""
_LABEL = 7
"""Points that a digit needs."""


def draw(outcomes: Mapping[str, Outcome], steps: int = 2) -> str:
    """An SVG of outcomes under their names, all in one scale, each with the first steps; the same every time.

    It is as long as the longest of so many steps. Each box says what it is when it is pointed at.
    """
    until = max((_end(outcome, steps) for outcome in outcomes.values()), default=0) or 1
    body: list[str] = []
    top = _HEAD
    for name, outcome in outcomes.items():
        rows = _rows(len(outcome.spans))
        about = f"{name}: {outcome.throughput:.4g} batches a second, bubble {outcome.bubble:.1%}"
        body.append(f'<text x="{_LEFT}" y="{top + 12}" font-weight="bold">{escape(about)}</text>')
        top += 20
        for rank in rows:
            label = "..." if rank is None else f"rank {rank}"
            body.append(
                f'<text x="{_LEFT - 6}" y="{top + 12}" text-anchor="end" fill="{_GREY}">{label}</text>'
            )
            if rank is not None:
                body += _boxes(outcome, rank, top, _WIDTH / until)
            top += _ROW + _GAP
        top += 14
    body.append(f'<text x="{_LEFT}" y="{top + 4}" fill="{_GREY}">0 s</text>')
    end = f'x="{_LEFT + _WIDTH}" y="{top + 4}" text-anchor="end" fill="{_GREY}"'
    body.append(f"<text {end}>{float(until):.4g} s</text>")
    size = f'width="{_LEFT + _WIDTH + 20}" height="{top + 20}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
            f'<clipPath id="time"><rect x="{_LEFT}" y="0" width="{_WIDTH}" height="{top + 20}"/></clipPath>',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *_legend(outcomes),
            *body,
            "</svg>\n",
        ]
    )


def _end(outcome: Outcome, steps: int) -> float:
    """When the last rank has taken so many steps."""
    ends = [
        [span.end for action, span in outcome.actions(rank) if action.kind is Kind.STEP]
        for rank in range(len(outcome.spans))
    ]
    held = max(len(outcome.layout.own(rank)) for rank in range(len(outcome.spans)))
    return max((each[: steps * held][-1] for each in ends if each), default=0)


def _rows(ranks: int) -> list[int | None]:
    """The ranks to show; None for those that are left out."""
    if ranks <= _RANKS:
        return list(range(ranks))
    half = _RANKS // 2
    return [*range(half), None, *range(ranks - half, ranks)]


class _Piece(NamedTuple):
    """A box: an action, or the part of it in which its rank waits."""

    action: Action
    span: Span
    waits: bool

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.span.end - self.span.begin

    @property
    def color(self) -> str:
        """What it is filled with."""
        return _WAIT if self.waits else _COLORS[self.action.kind]


def _pieces(outcome: Outcome, rank: int) -> Iterator[_Piece]:
    for action, span in outcome.actions(rank):
        waited = outcome.waited(action, span)
        yield _Piece(action, waited, True)
        yield _Piece(action, Span(waited.end, span.end), False)


def _boxes(outcome: Outcome, rank: int, top: int, scale: float) -> Iterator[str]:
    yield '<g clip-path="url(#time)">'
    narrow: list[_Piece] = []  # a box for each of thousands of actions would be seen by nobody
    for piece in _pieces(outcome, rank):
        if piece.span.begin * scale > _WIDTH:
            break
        if piece.seconds * scale >= _NARROW:
            yield from _together(outcome, narrow, top, scale)
            yield _box(outcome, piece, top, scale)
            narrow = []
        elif piece.seconds > 0:
            narrow.append(piece)
            if (piece.span.end - narrow[0].span.begin) * scale >= _NARROW:
                yield from _together(outcome, narrow, top, scale)
                narrow = []
    yield from _together(outcome, narrow, top, scale)
    yield "</g>"


def _together(outcome: Outcome, narrow: Sequence[_Piece], top: int, scale: float) -> Iterator[str]:
    """One box for actions that follow one another, in the color of the longest."""
    if len(narrow) == 1:
        yield _box(outcome, narrow[0], top, scale)
    elif narrow:
        longest = max(narrow, key=lambda each: each.seconds)
        span = Span(narrow[0].span.begin, narrow[-1].span.end)
        names = f"{narrow[0].action} to {narrow[-1].action}"
        yield _rectangle(span, top, scale, longest.color, names)


def _box(outcome: Outcome, piece: _Piece, top: int, scale: float) -> str:
    action, message = piece.action, piece.action.message
    what = f"{action} {_NAMES[action.kind]}"
    if piece.waits and message:
        what = f"waits at {action} for rank {outcome.timetable.sent[message]}"
    box = _rectangle(piece.span, top, scale, piece.color, what)
    text, width = str(action.batch), piece.seconds * scale
    if piece.waits or action.kind in _PLAIN or width < _LABEL * len(text) + 4:
        return box
    middle = _LEFT + (piece.span.begin + piece.span.end) / 2 * scale
    at = f'x="{middle:.2f}" y="{top + 12}" text-anchor="middle" fill="#ffffff"'
    return f'{box}<text {at} pointer-events="none">{text}</text>'


def _rectangle(span: Span, top: int, scale: float, color: str, what: str) -> str:
    title = f"{what}, {float(span.begin):.4g} s to {float(span.end):.4g} s"
    left, width = _LEFT + span.begin * scale, (span.end - span.begin) * scale
    return (
        f'<rect x="{left:.2f}" y="{top}" width="{width:.2f}" height="{_ROW}" fill="{color}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _legend(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    used = {
        piece.action.kind
        for outcome in outcomes.values()
        for rank in range(len(outcome.spans))
        for piece in _pieces(outcome, rank)
        if piece.seconds and not piece.waits
    }
    shown = dict.fromkeys((_COLORS[kind], name) for kind, name in _NAMES.items() if kind in used)
    left = _LEFT
    for color, name in [*shown, (_WAIT, "waits")]:
        yield f'<rect x="{left}" y="10" width="12" height="12" fill="{color}"/>'
        yield f'<text x="{left + 16}" y="20" fill="{_GREY}">{escape(name)}</text>'
        left += 34 + 6 * len(name)
