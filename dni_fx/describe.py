"""What there is to choose from, and what a plan means on a graph, as plain data for whoever shows it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.errors import DniError
from dni_fx.exporters import EXPORTERS
from dni_fx.frontends import FRONTENDS
from dni_fx.interface import INTERFACES
from dni_fx.policies import POLICIES
from dni_fx.runtimes import RUNTIMES
from dni_fx.synthesizers import SYNTHESIZERS
from passes import PASSES, BoundarySpec, Named, Pipeline, Plan, PreconditionError, Registry, boundaries
from passes.dataflow import dataflow
from passes.mark_boundaries import MarkBoundaries
from passes.named import options_of

if TYPE_CHECKING:
    import networkx as nx

_CATALOG: dict[str, Registry[Any]] = {
    "frontends": FRONTENDS,
    "policies": POLICIES,
    "synthesizers": SYNTHESIZERS,
    "interfaces": INTERFACES,
    "runtimes": RUNTIMES,
    "exporters": EXPORTERS,
    "passes": PASSES,
}
FAMILIES = tuple(_CATALOG)
"""The kinds of things that a user can choose by name."""


@dataclass(frozen=True)
class Entry:
    """One thing that a user can choose: its name, what it is in a line, its options with their defaults."""

    name: str
    about: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Crossing:
    """A value that crosses a cut: its boundary, its shape in terms of the batch size `b`, who reads it."""

    boundary: str
    anchor: str
    shape: tuple[int | str, ...]
    dtype: str
    producer: int
    consumers: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.anchor} ({', '.join(map(str, self.shape))}) {self.dtype}"


@dataclass(frozen=True)
class StageFacts:
    """What is in one stage. `flops` is that of a forward pass on the example; `crossings` leave the stage."""

    stage: int
    values: int
    first: str
    last: str
    parameters: int
    flops: int
    crossings: tuple[Crossing, ...]


def catalog(family: str) -> Iterator[Entry]:
    """Everything of a family that has a name, what other packages add by entry points included."""
    for name in sorted(_CATALOG[family]):
        cls: type[Named] = _CATALOG[family].get(name)
        about = (inspect.getdoc(cls) or "").partition("\n")[0]
        options = {field.name: field.default for field in options_of(cls)}
        yield Entry(name, about, options)


def stage_facts(tree: nn.Module, gm: fx.GraphModule, plan: Plan) -> tuple[StageFacts, ...]:
    """What a plan puts into each stage of an annotated graph over the modules of `tree`, and what crosses.

    A parameter that several stages read counts in each of them. The graph is left as it is.

    Raises:
        PreconditionError: the plan cannot be carried out on this graph.
    """
    specs = [spec for _, spec in boundaries(Pipeline((MarkBoundaries(plan),)).run(gm))]
    flow = dataflow(gm)
    stages = {node.name: stage for node, stage in plan.assign(gm.graph).items()}
    members = [[name for name in stages if stages[name] == stage] for stage in range(len(plan))]
    return tuple(_facts(tree, flow, names, stage, specs) for stage, names in enumerate(members) if names)


def refuse_misfit(gm: fx.GraphModule, plan: Plan) -> None:
    """Do nothing if a plan was made for this graph.

    Raises:
        PreconditionError: it was not; lists how that shows.
    """
    PreconditionError.unless_none("cannot carry out the plan", plan.problems(gm.graph))


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers some parameters hold; what is there twice counts once."""
    return sum(parameter.numel() for parameter in {id(each): each for each in parameters}.values())


def plan_of(cut: Decoupled) -> Plan:
    """The plan that a model is cut by.

    Raises:
        DniError: it has seen no batch yet, so its plan is not chosen.
    """
    plan = cutting_of(cut).plan
    if not isinstance(plan, Plan):
        raise DniError("this model has no plan yet: it is cut at its first batch in train mode.")
    return plan


def history_of(cut: Decoupled) -> tuple[str, ...]:
    """What made the graphs of a cut model, step by step."""
    return tuple(cutting_of(cut).program.history)


def crossing(spec: BoundarySpec) -> Crossing:
    """A boundary of one value as plain data."""
    value = spec.value
    dtype = str(value.dtype).removeprefix("torch.")
    return Crossing(spec.name, str(value.anchor), value.dims, dtype, spec.producer, spec.consumers)


def _facts(
    tree: nn.Module, flow: nx.DiGraph[str], names: list[str], stage: int, specs: list[BoundarySpec]
) -> StageFacts:
    read = dict.fromkeys(path for name in names for path in flow.nodes[name]["parameters"])
    return StageFacts(
        stage,
        len(names),
        str(flow.nodes[names[0]]["anchor"]),
        str(flow.nodes[names[-1]]["anchor"]),
        count(tree.get_parameter(path) for path in read),
        sum(flow.nodes[name]["flops"] for name in names),
        tuple(crossing(spec) for spec in specs if spec.producer == stage),
    )
