"""What can be cut in time, by name: recurrent layers, and loops that a capture has unrolled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.anchors import Anchor
from passes.dataflow import computed
from passes.layers import name_of
from passes.loops import loops

if TYPE_CHECKING:
    import networkx as nx


def layers(flow: nx.DiGraph[str]) -> dict[Anchor, list[str]]:
    """The calls of each recurrent layer by its name, but for those that are steps of an unrolled loop."""
    steps = {call for loop in loops(flow).values() for call in loop.chained}
    found: dict[Anchor, list[str]] = {}
    for name in computed(flow):
        if flow.nodes[name]["steps"] and name not in steps:
            found.setdefault(name_of(flow.nodes[name]["anchor"]), []).append(name)
    return found


def refusals(flow: nx.DiGraph[str]) -> dict[Anchor, str]:
    """Why layers cannot run in chunks, by the name of the layer; nothing of those that can."""
    return {
        layer: flow.nodes[name]["refusal"]
        for layer, calls in layers(flow).items()
        for name in calls
        if flow.nodes[name]["refusal"]
    }


def recurrences(flow: nx.DiGraph[str]) -> tuple[Anchor, ...]:
    """The names of all that can be cut in time: layers and unrolled loops."""
    return tuple(dict.fromkeys([*layers(flow), *loops(flow)]))
