"""What a node costs, by kinds of cost that a plan can balance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from passes.dataflow import computed
from passes.errors import PreconditionError

if TYPE_CHECKING:
    import networkx as nx


def flops(flow: nx.DiGraph[str]) -> dict[str, int]:
    """Floating-point operations of the forward and the backward pass of each computed node."""
    return {name: flow.nodes[name]["flops"] + flow.nodes[name]["backward_flops"] for name in computed(flow)}


def time(flow: nx.DiGraph[str]) -> dict[str, int]:
    """Nanoseconds that the forward and the backward pass of each computed node were measured to take.

    Raises:
        PreconditionError: nothing was measured.
    """
    seconds = {name: flow.nodes[name]["seconds"] for name in computed(flow)}
    if any(each is None for each in seconds.values()):
        raise PreconditionError(
            "cannot balance by time: the graph was not measured. dni_fx.plan and dni_fx.decouple measure it."
        )
    return {name: round(1e9 * each) for name, each in seconds.items()}


def parameters(flow: nx.DiGraph[str]) -> dict[str, int]:
    """Bytes of the parameters that each computed node is the first to read."""
    return {name: flow.nodes[name]["parameter_bytes"] for name in computed(flow)}


def memory(flow: nx.DiGraph[str]) -> dict[str, int]:
    """Bytes that each computed node adds to what autograd keeps for the backward pass."""
    return {name: flow.nodes[name]["saved"] for name in computed(flow)}


COSTS: Mapping[str, Callable[[nx.DiGraph[str]], dict[str, int]]] = {
    "flops": flops,
    "time": time,
    "parameters": parameters,
}
"""The kinds of cost that a plan can balance."""

_COLUMNS = ("module", "flops", "backward_flops", "seconds", "parameter_bytes", "saved", "bytes")
_PRICES = ("synthesizer_flops", "synthesizer_bytes")


def node_table(flow: nx.DiGraph[str]) -> list[dict[str, str | int | float | None]]:
    """A row for each computed node in graph order, with all that is known of its cost; made for JSON.

    `name`, `anchor` and `module` say where it is; `flops`, `backward_flops`, `parameter_bytes`, `saved` and
    `bytes` mean what they mean in the dataflow, and `seconds` is None where nothing was measured. What a
    synthesizer would cost if the value crossed a cut is None where none was priced, 0 where it cannot cross.
    """
    return [
        {"name": name, "anchor": str(facts["anchor"])}
        | {column: facts[column] for column in _COLUMNS}
        | {column: facts.get(column) for column in _PRICES}
        for name, facts in ((name, flow.nodes[name]) for name in computed(flow))
    ]
