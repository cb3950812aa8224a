"""What a picture of a plan shows, before anything has a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from dni_fx.picture.folding import Fold, Modules, folded, modules_of
from passes import Plan
from passes.anchors import anchor_of
from passes.bytes import show_bytes, show_count
from passes.costs import COSTS
from passes.crossings import crossings, plain_crossings
from passes.dataflow import computed, dataflow
from passes.errors import PreconditionError
from passes.values import value_of

if TYPE_CHECKING:
    import networkx as nx

BOXES = 60
"""How many boxes a picture has, but for `FEWEST` in each stage."""
MOST, FEWEST = 15, 4
"""How many boxes a stage has at most, and how many it may have however many stages there are."""


@dataclass(frozen=True)
class Box:
    """Some nodes of one stage, by the modules that they lie in. `cost` is that of its nodes together."""

    stage: int
    fold: Fold
    cost: float


@dataclass(frozen=True)
class Joint:
    """A value that crosses, or several from one box where no gradient does; boxes are numbers.

    `name` is the boundary's, which several may share, and empty where there is none. `shape` is in terms of
    the batch size `b`. `readers` counts the nodes in later stages that read it.
    """

    name: str
    anchor: str
    shape: str
    dtype: str
    bytes: int
    readers: int
    source: int
    targets: tuple[int, ...]
    consumers: tuple[int, ...]


@dataclass(frozen=True)
class Lane:
    """A stage: its boxes by number, its cost, its size, and the inputs that it reads."""

    stage: int
    boxes: tuple[int, ...]
    nodes: int
    cost: float
    parameter_bytes: int
    saved: int
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """Boxes in lanes, and what runs between them. `wires` are pairs of boxes of one lane."""

    policy: str
    unit: str
    lanes: tuple[Lane, ...]
    boxes: tuple[Box, ...]
    joints: tuple[Joint, ...]
    wires: tuple[tuple[int, int], ...]
    modules: Modules

    @property
    def cost(self) -> float:
        """The cost of all stages."""
        return sum(lane.cost for lane in self.lanes)

    @property
    def balance(self) -> float:
        """The largest cost of a stage over the mean; 1 where nothing costs anything."""
        return max(lane.cost for lane in self.lanes) * len(self.lanes) / self.cost if self.cost else 1.0

    def share(self, cost: float) -> float:
        """A cost as a share of all."""
        return cost / self.cost if self.cost else 0.0

    def amount(self, cost: float) -> str:
        """A cost with its unit, for people."""
        if self.unit == "time":
            return f"{cost / 1e6:.3g} ms"
        count = show_count(cost)
        flops = f"{count}FLOP" if count[-1].isalpha() else f"{count} FLOP"
        return show_bytes(cost) if self.unit == "parameters" else flops


def scene_of(gm: fx.GraphModule, plan: Plan, cost: str) -> Scene:
    """What to show of a plan on an annotated graph, which stays as it is. O(V + E).

    Raises:
        PreconditionError: the plan cannot be carried out on this graph, there is no such cost, or time was
            not measured.
    """
    flow = dataflow(gm)
    if plan.stage_of or computed(flow):  # a graph that computes nothing is drawn as an empty stage
        PreconditionError.unless_none("cannot draw the plan", plan.problems(gm.graph))
    if cost not in COSTS:
        raise PreconditionError(f"cannot draw by {cost!r}: a picture shows {', '.join(COSTS)}.")
    weights = {name: float(each) for name, each in COSTS[cost](flow).items()}
    modules = modules_of(gm, flow, weights)
    stages = {node.name: stage for node, stage in plan.assign(gm.graph).items()}
    budget = max(FEWEST, min(MOST, BOXES // len(plan)))
    boxes: list[Box] = []
    for stage in range(len(plan)):
        names = [name for name in stages if stages[name] == stage]
        boxes += [Box(stage, fold, modules.weight(fold)[0]) for fold in folded(modules, names, budget)]
    box_of = {name: at for at, box in enumerate(boxes) for name in box.fold.names}
    wires = {
        (box_of[source], box_of[reader]): None
        for source, reader in flow.edges
        if source in box_of and reader in box_of and stages[source] == stages[reader]
    }
    return Scene(
        plan.policy,
        cost,
        tuple(_lane(flow, boxes, stage) for stage in range(len(plan))),
        tuple(boxes),
        (*_joints(gm, plan, flow, box_of), *_plain(gm, plan, flow, box_of)),
        tuple(wire for wire in wires if wire[0] != wire[1]),
        modules,
    )


def _lane(flow: nx.DiGraph[str], boxes: Sequence[Box], stage: int) -> Lane:
    own = [at for at, box in enumerate(boxes) if box.stage == stage]
    names = [name for at in own for name in boxes[at].fold.names]
    inputs = {
        source: None
        for source in flow
        if flow.nodes[source]["op"] == "placeholder" and not set(names).isdisjoint(flow.succ[source])
    }
    return Lane(
        stage,
        tuple(own),
        len(names),
        sum(boxes[at].cost for at in own),
        sum(flow.nodes[name]["parameter_bytes"] for name in names),
        sum(flow.nodes[name]["saved"] for name in names),
        tuple(_input(flow, name) for name in inputs),
    )


def _input(flow: nx.DiGraph[str], name: str) -> str:
    """An input, and of which value it is what the step before has made."""
    carried = flow.nodes[name]["carried"]
    return f"{name} (↺ {flow.nodes[carried]['anchor']} of the step before)" if carried else name


def _joints(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str], box_of: Mapping[str, int]) -> list[Joint]:
    """One for each value of each boundary."""
    stages = plan.assign(gm.graph)
    found: list[Joint] = []
    values = (
        (node, value, spec)
        for nodes, spec in crossings(gm, plan, flow)
        for node, value in zip(nodes, spec.values, strict=True)
    )
    for node, value, spec in values:
        later = [user for user in node.users if stages.get(user, -1) > stages[node]]
        found.append(
            Joint(
                spec.name,
                str(value.anchor),
                f"({', '.join(map(str, value.dims))})",
                str(value.dtype).removeprefix("torch."),
                value_of(node).bytes,
                len(later),
                box_of[node.name],
                tuple(sorted({box_of[user.name] for user in later})),
                spec.consumers,
            )
        )
    return found


def _plain(gm: fx.GraphModule, plan: Plan, flow: nx.DiGraph[str], box_of: Mapping[str, int]) -> list[Joint]:
    """One for each box that sends tensors without a gradient."""
    stages = plan.assign(gm.graph)
    senders: dict[int, list[fx.Node]] = {}
    for node in plain_crossings(gm, plan, flow):
        senders.setdefault(box_of[node.name], []).append(node)
    found: list[Joint] = []
    for box, nodes in senders.items():
        later = [
            user
            for node in nodes
            for user in node.users
            if user in stages and stages[user] not in {stages[node], *plan.copies.get(anchor_of(node), ())}
        ]
        first = value_of(nodes[0])
        found.append(
            Joint(
                "",
                str(anchor_of(nodes[0])),
                f"({', '.join(map(str, first.dims))})" if len(nodes) == 1 else f"{len(nodes)} tensors",
                str(first.dtype).removeprefix("torch."),
                sum(value_of(node).bytes for node in nodes),
                len(later),
                box,
                tuple(sorted({box_of[user.name] for user in later})),
                tuple(sorted({stages[user] for user in later})),
            )
        )
    return found
