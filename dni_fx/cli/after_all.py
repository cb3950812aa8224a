"""Graphs as they are after every pass."""

from __future__ import annotations

from dataclasses import dataclass

import typer
from torch import fx

from dni_fx import verbs
from dni_fx.decoupled import Decoupled
from passes import Pass, Pipeline, Plan
from passes.chunk_time import chunkings
from passes.mark_boundaries import MarkBoundaries
from passes.words import counted


@dataclass
class Printer:
    """Prints a graph on stderr after every pass over it; counts them."""

    count: int = 0

    def __call__(self, each: Pass, gm: fx.GraphModule, changed: bool) -> None:
        """Print what a pass has made of a graph."""
        self.count += 1
        self.show(f"after pass {self.count}, {each.name}{'' if changed else ', which changed nothing'}", gm)

    def show(self, title: str, gm: fx.GraphModule) -> None:
        """Print a graph under a line that says what it is."""
        typer.echo(f"# {title}: {counted(len(gm.graph.nodes), 'node')}\n{gm.graph}\n", err=True)


def printer(wanted: bool) -> Printer | None:
    """What prints after all passes, if that is wanted."""
    return Printer() if wanted else None


def show_cut(printer: Printer, cut: Decoupled) -> None:
    """Print the graphs of a model that came cut from a file."""
    graph = verbs.cut_graph(cut)
    printer.show("captured", graph.capture.module(verbs.recouple(cut)))
    printer.show("after all passes", graph.marked.module(cut))


def show_planned(printer: Printer, gm: fx.GraphModule, plan: Plan) -> None:
    """Print what the passes make of a graph that is to be cut by a plan; the graph stays as it is."""
    printer.show("captured", gm)
    Pipeline((*chunkings(plan.time), MarkBoundaries(plan))).run(gm, printer)
