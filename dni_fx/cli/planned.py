"""A plan on the graph that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from dni_fx import verbs
from dni_fx.assembly import measure_shown
from dni_fx.calls import Call
from dni_fx.cli.after_all import Printer, show_planned
from dni_fx.cli.commands.options import CaptureRequest, ModelRequest
from dni_fx.cli.models import captured, open_model
from dni_fx.cli.named_files import read_plan
from dni_fx.cli.usage import refuse_idle
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.describe import plan_of, refuse_misfit
from dni_fx.sheet import Sheet, sheet_of
from passes import Plan
from passes.dataflow import dataflow
from passes.placement import refit

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Planned:
    """A plan on the graph that it is for, and what it means there."""

    gm: fx.GraphModule
    flow: nx.DiGraph[str]
    plan: Plan
    sheet: Sheet

    @property
    def fitted(self) -> Plan:
        """The plan with a stage for every value of the graph; that of a file holds others than the code."""
        return refit(self.plan, self.flow) if any(self.plan.problems(self.gm.graph)) else self.plan


def planned_as(
    source: ModelRequest,
    plan: str | None,
    capture: CaptureRequest,
    measured: bool,
    *,
    show: bool = False,
    default: str = verbs.DEFAULT_PLAN,
) -> Planned:
    """The plan that is asked for, or that a cut model has, and its graph, measured if that is asked.

    With `show` the graph is printed on stderr after every pass. `default` is for a model that is not cut and
    for which no plan is named.

    Raises:
        typer.BadParameter: the model is cut already, and another plan is asked for.
        PreconditionError: the plan belongs to another graph.
    """
    opened = open_model(source)
    if isinstance(opened.model, Decoupled):
        # The graph of a file may be that of another front-end.
        gm, call, chosen = _of_cut(opened.model, source, plan, capture)
    else:
        program = captured(opened, capture)
        assert program.example is not None
        read = read_plan(plan or default)
        chosen = read if isinstance(read, Plan) else verbs.plan(program, read)
        gm, call = verbs.training_graph(program), program.example
        refuse_misfit(gm, chosen)
    if show:
        show_planned(Printer(), gm, chosen)
    if measured:
        measure_shown(gm, call.leaves)
    flow = dataflow(gm)
    return Planned(gm, flow, chosen, sheet_of(gm, chosen, flow))


def _of_cut(
    cut: Decoupled, source: ModelRequest, plan: str | None, capture: CaptureRequest
) -> tuple[fx.GraphModule, Call, Plan]:
    given = {
        "--plan": plan,
        "--frontend": capture.frontend,
        "--carry": capture.carry,
        "--example": source.example,
    }
    refuse_idle(
        given, "this model is cut already", " to see its plan, or name the model that it was cut from"
    )
    gm = verbs.cut_graph(cut).capture.module(verbs.recouple(cut))
    call = cutting_of(cut).program.example
    assert call is not None
    return gm, call, plan_of(cut)
