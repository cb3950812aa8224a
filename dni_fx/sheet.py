"""A plan as a thing to read: what each stage holds and costs, and what crosses between them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx
from typing_extensions import override

from dni_fx.crossing import Crossing, crossings_of
from dni_fx.table import Column, show_table
from passes import Plan
from passes.anchors import anchor_of
from passes.bytes import show_bytes, show_count
from passes.crossings import crossings, plain_crossings
from passes.dataflow import dataflow

if TYPE_CHECKING:
    import networkx as nx

_SHOWN = 8
"""Crossing values of one stage that a table names, the largest; the others are added up."""


@dataclass(frozen=True)
class Row:
    """One stage of a plan.

    `first` and `last` are anchors. `parameters` counts numbers that its nodes read. `flops` are those of the
    forward and the backward pass on the example; so is `seconds`, None if nothing was measured. `saved` are
    the bytes that autograd keeps for the backward pass. `crossings` leave the stage.
    """

    stage: int
    first: str
    last: str
    nodes: int
    parameters: int
    flops: int
    seconds: float | None
    saved: int
    crossings: tuple[Crossing, ...]


@dataclass(frozen=True)
class Sheet:
    """What a plan means on one graph, as plain data; its text is a table.

    `parameters` counts each parameter once, however many stages read it. `heaviest` is the largest cost of
    a node. `plain` and `plain_bytes` are the tensors that cross without a gradient. `carried` are values and
    the inputs that they are in the next step.
    """

    summary: str
    stages: tuple[Row, ...]
    parameters: int
    heaviest: float
    plain: int
    plain_bytes: int
    carried: tuple[tuple[str, str], ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether the cost of a stage is its measured time, and not its FLOPs."""
        return bool(self.stages) and all(row.seconds is not None for row in self.stages)

    @property
    def costs(self) -> tuple[float, ...]:
        """Seconds of each stage if they were measured, else its FLOPs."""
        return tuple(float(row.flops if row.seconds is None else row.seconds) for row in self.stages)

    @property
    def balance(self) -> float:
        """The cost of the most expensive stage over the mean: 1 at best, the number of stages at worst."""
        return _over_mean(max(self.costs, default=0.0), self.costs)

    @property
    def bound(self) -> float:
        """What no plan of so many stages can balance better than, for the heaviest node is in some stage."""
        return max(1.0, _over_mean(self.heaviest, self.costs))

    @property
    def crossing_bytes(self) -> int:
        """Bytes of all values that cross with a gradient, each once, at the example."""
        return sum(crossing.bytes for row in self.stages for crossing in row.crossings)

    def data(self) -> dict[str, Any]:
        """Everything that the table shows, and more, as what JSON can hold."""
        over_all = {
            "cost": "seconds" if self.is_measured else "flops",
            "balance": self.balance,
            "bound": self.bound,
            "crossing_bytes": self.crossing_bytes,
        }
        return dataclasses.asdict(self) | over_all

    def table(self, width: int | None = None) -> str:
        """The table for lines of `width` letters: those of the terminal if there is one, else 100."""
        parts = [self.summary, show_table(_columns(self), [*_lines(self), _total(self)], width)]
        if crossing := _leaving(self):
            parts.append(show_table(_CROSSING, crossing, width))
        return "\n\n".join([*parts, self._end()])

    def _end(self) -> str:
        cost = "time" if self.is_measured else "FLOPs"
        count = sum(len(row.crossings) for row in self.stages)
        crossing = f"crossing with a gradient: {count}, {show_bytes(self.crossing_bytes)}"
        carried = ", ".join(f"{value} as {name}" for value, name in self.carried)
        plain = f"; without: {self.plain}, {show_bytes(self.plain_bytes)}" if self.plain else ""
        return (
            f"balance: {self.balance:.3f} (max / mean {cost} of a stage; no plan is below {self.bound:.3f})\n"
            f"{crossing}{plain}" + (f"\ncarried into the next step: {carried}" if carried else "")
        )

    @override
    def __str__(self) -> str:
        return self.table()


def sheet_of(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str] | None = None) -> Sheet:
    """What a plan means on an annotated graph, which stays as it is.

    A parameter that several stages read counts in each of them, and so does what is recomputed there.
    `flow` is the graph's dataflow if there is one already. O(V + E).
    """
    flow = dataflow(gm) if flow is None else flow
    stages = plan.assign(gm.graph)
    members: list[list[str]] = [[] for _ in range(len(plan))]
    for node, stage in stages.items():
        members[stage].append(node.name)
    again: list[list[str]] = [[] for _ in members]
    for node in stages:
        for stage in plan.copies.get(anchor_of(node), ()):
            again[stage].append(node.name)
    leaving: list[list[Crossing]] = [[] for _ in members]
    for _, spec in crossings(gm, plan, flow):
        leaving[spec.producer] += crossings_of(spec)
    sizes = {name: parameter.numel() for name, parameter in gm.named_parameters()}
    rows = tuple(
        _row(flow, names, again[stage], sizes, stage, leaving[stage])
        for stage, names in enumerate(members)
        if names
    )
    plain = plain_crossings(gm, plan, flow)
    return Sheet(
        plan.summary,
        rows,
        _count(flow, [node.name for node in stages], sizes),
        max((_cost(flow, node.name) for node in stages), default=0.0),
        len(plain),
        sum(plain.values()),
        tuple(
            (str(flow.nodes[of["carried"]]["anchor"]), name)
            for name, of in flow.nodes.items()
            if of["carried"]
        ),
    )


def described(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str] | None = None) -> Plan:
    """The same plan, which prints as a table from now on."""
    return dataclasses.replace(plan, sheet=sheet_of(gm, plan, flow))


def _row(
    flow: nx.DiGraph[str],
    names: list[str],
    again: list[str],
    sizes: dict[str, int],
    stage: int,
    leaving: list[Crossing],
) -> Row:
    facts = [flow.nodes[name] for name in names]
    paid = facts + [flow.nodes[name] for name in again]
    seconds = [each["seconds"] for each in paid]
    return Row(
        stage,
        str(facts[0]["anchor"]),
        str(facts[-1]["anchor"]),
        len(names),
        _count(flow, [*names, *again], sizes),
        sum(each["flops"] + each["backward_flops"] for each in paid),
        None if None in seconds else math.fsum(seconds),
        sum(each["saved"] for each in paid),
        tuple(leaving),
    )


def _count(flow: nx.DiGraph[str], names: Iterable[str], sizes: dict[str, int]) -> int:
    """How many numbers the parameters hold that some nodes read."""
    return sum(sizes[path] for path in {path for name in names for path in flow.nodes[name]["parameters"]})


def _cost(flow: nx.DiGraph[str], name: str) -> float:
    facts = flow.nodes[name]
    return float(facts["flops"] + facts["backward_flops"] if facts["seconds"] is None else facts["seconds"])


def _over_mean(cost: float, costs: Sequence[float]) -> float:
    """A cost in units of the mean of several; 1 where nothing costs anything."""
    return cost * len(costs) / math.fsum(costs) if any(costs) else 1.0


def _columns(sheet: Sheet) -> list[Column]:
    return [
        Column("stage", is_number=True),
        Column("first, last", may_shrink=True),
        Column("nodes", is_number=True),
        Column("params", is_number=True),
        Column("ms" if sheet.is_measured else "FLOPs", is_number=True),
        Column("saved", is_number=True),
        Column("crosses", is_number=True),
        Column("size", is_number=True),
    ]


_CROSSING = (
    Column("from", is_number=True),
    Column("crosses", may_shrink=True),
    Column("shape"),
    Column("dtype"),
    Column("size", is_number=True),
    Column("read by", may_shrink=True),
)


def _lines(sheet: Sheet) -> Iterator[list[str]]:
    """A line for each stage and its first value, and one more for its last."""
    for row in sheet.stages:
        yield [
            str(row.stage),
            row.first,
            f"{row.nodes:,}",
            show_count(row.parameters),
            show_count(row.flops) if row.seconds is None else _milliseconds(row.seconds),
            show_bytes(row.saved),
            str(len(row.crossings) or "-"),
            show_bytes(sum(each.bytes for each in row.crossings)) if row.crossings else "-",
        ]
        if row.last != row.first:
            yield ["", row.last, *[""] * 6]


def _total(sheet: Sheet) -> list[str]:
    cost = sum(sheet.costs)
    return [
        "all",
        "",
        f"{sum(row.nodes for row in sheet.stages):,}",
        show_count(sheet.parameters),
        _milliseconds(cost) if sheet.is_measured else show_count(cost),
        show_bytes(sum(row.saved for row in sheet.stages)),
        str(sum(len(row.crossings) for row in sheet.stages)),
        show_bytes(sheet.crossing_bytes),
    ]


def _leaving(sheet: Sheet) -> list[list[str]]:
    """A line for each crossing value; of many that leave one stage, the largest, and one for the rest."""
    lines: list[list[str]] = []
    for row in sheet.stages:
        shown = _SHOWN if len(row.crossings) > _SHOWN + 1 else len(row.crossings)
        largest = sorted(row.crossings, key=lambda each: -each.bytes)
        stage, size = str(row.stage), show_bytes(sum(each.bytes for each in largest[shown:]))
        count = Counter(each.boundary for each in row.crossings)
        lines += [
            [stage, *_cells(each, count[each.boundary])] for each in row.crossings if each in largest[:shown]
        ]
        lines += [[stage, f"and {len(largest) - shown} more", "", "", size, ""]] if largest[shown:] else []
    return lines


def _cells(value: Crossing, together: int) -> list[str]:
    """What is to be said of a value that is one of so many in its boundary."""
    shape, stages = ", ".join(map(str, value.shape)), ", ".join(map(str, value.consumers))
    many = f"{len(value.consumers)} stages: " if len(value.consumers) > 1 else "stage "
    joint = ", jointly" if together > 1 else ""
    return [value.anchor, f"({shape})", value.dtype, show_bytes(value.bytes), f"{many}{stages}{joint}"]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"
