"""A plan as colors for Google's Model Explorer, which draws the graphs of `.pt2` files.

The format is the one of its custom node data: https://github.com/google-ai-edge/model-explorer/wiki/2.-User-Guide.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.export import ExportedProgram

from dni_fx.assembly import training_graph
from dni_fx.errors import DniError, FileError
from dni_fx.palette import HEAT, stage_color
from dni_fx.sources import program_of
from passes import Plan, PreconditionError
from passes.anchors import Anchor, base_of, module_of, paths_around
from passes.costs import COSTS
from passes.dataflow import computed, dataflow
from passes.placement import refit

if TYPE_CHECKING:
    import networkx as nx

_GRAPH = "graph"
"""What Model Explorer calls the graph of an exported program; its nodes it calls by their own names."""


def write_overlay(
    exported: ExportedProgram, plan: Plan, path: str | os.PathLike[str], *, cost: str = "flops"
) -> tuple[Path, ...]:
    """Write what a plan means for each node of an exported program: its stage, its bytes, its cost.

    The files belong to the `.pt2` that `torch.export.save` writes of this program: open that one in Model
    Explorer, then these as custom node data. `name.json` becomes `name.stage.json`, `name.bytes.json` and
    `name.flops.json`, for a file holds one overlay. The plan may be that of another capture of the same
    model: a node that it does not know is in the stage of the module call around it, else in the one that
    its neighbors leave it. `cost` is `flops` or `parameters`. O(V + E).

    Raises:
        DniError: `path` is no `.json`, or the plan knows no value of this program.
        FileError: a file cannot be written, or the program holds no example inputs.
        CaptureError: the program was exported in eval mode, so it is not the one that trains.
        PreconditionError: there is no such cost.
    """
    place = Path(path)
    if place.suffix.lower() != ".json":
        raise DniError(f"cannot write {place}: an overlay is a file whose name ends in .json.")
    if cost not in COSTS:
        raise PreconditionError(f"cannot show {cost!r}: an overlay shows one of {', '.join(COSTS)}.")
    flow = dataflow(training_graph(program_of(exported, "auto")))
    overlays = {
        "stage": _stages(flow, _fitted(plan, flow)),
        "bytes": _numbers({name: flow.nodes[name]["bytes"] for name in computed(flow)}),
        cost: _numbers(COSTS[cost](flow)),
    }
    written: list[Path] = []
    for name, overlay in overlays.items():
        file = place.with_suffix(f".{name}{place.suffix}")
        try:
            file.write_text(json.dumps({_GRAPH: {"name": name, **overlay}}, indent=1), "utf-8")
        except OSError as error:
            raise FileError(f"cannot write {file}: {error.strerror or error}.") from None
        written.append(file)
    return tuple(written)


def _fitted(plan: Plan, flow: nx.DiGraph[str]) -> Plan:
    """The plan for the values of this graph."""
    anchors: list[Anchor] = [flow.nodes[name]["anchor"] for name in computed(flow)]
    known = {anchor: stage for anchor in anchors if (stage := _known(plan, anchor)) is not None}
    if anchors and not known:
        raise DniError("the plan speaks of no value of this exported program: it belongs to another model.")
    return refit(Plan(known, policy=plan.policy), flow)


def _known(plan: Plan, anchor: Anchor) -> int | None:
    """The stage of a value by a plan that knows it, or a call that it is made in."""
    call = anchor.partition(":")[0]
    around = reversed(paths_around(module_of(anchor)))
    places = (anchor, base_of(anchor), Anchor(call), *map(Anchor, around))
    return next((plan.stage_of[place] for place in places if place in plan.stage_of), None)


def _stages(flow: nx.DiGraph[str], plan: Plan) -> dict[str, Any]:
    stages = {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}
    return {
        "results": {
            name: {"value": f"stage {stage}", "bgColor": stage_color(stage), "textColor": "#000000"}
            for name, stage in stages.items()
        },
        "showExpandedSummaryOnGroupNode": True,
    }


def _numbers(values: Mapping[str, int]) -> dict[str, Any]:
    last = len(HEAT) - 1
    return {
        "results": {name: {"value": value} for name, value in values.items()},
        "gradient": [{"stop": at / last, "bgColor": color} for at, color in enumerate(HEAT)],
    }
