"""From cuts of the gradient-carrying values to a stage for every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from passes.anchors import Anchor, base_of
from passes.dataflow import carrying, computed, precedence
from passes.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]
    """One truth value for each cut."""


def plan_of(flow: nx.DiGraph[str], stages: Mapping[str, int], policy: str) -> Plan:
    """The plan with these stages of the carrying values, which are an admissible sequence of nested cuts.

    A value without a gradient is in the latest of the stages of the carrying values that it depends on;
    one that depends on none, a mask or a position, where it is first needed. What is computed from
    weights alone is recomputed in each stage that reads it, unless it may run only once. O(V + E).
    """
    units = precedence(flow)
    order, late = list(nx.topological_sort(units)), _independent(flow)
    found: dict[int, int] = {}
    for unit in order:
        members: set[str] = units.nodes[unit]["members"]
        held = next((stages[name] for name in members if name in stages), None)
        above = (found[earlier] for earlier in units.pred[unit])
        found[unit] = max(above, default=0) if held is None else held
    for unit in reversed(order):
        if units.nodes[unit]["members"] <= late:
            found[unit] = min((found[reader] for reader in units.succ[unit]), default=found[unit])
    named = {name: found[unit] for unit in order for name in units.nodes[unit]["members"]}
    return _plan(flow, named, policy)


def refit(plan: Plan, flow: nx.DiGraph[str]) -> Plan:
    """The plan for another graph of the same model: where it cannot hold there, values move to later stages.

    The graph of another mode, of other sizes, or of another way through the code, has most values in common
    with the one that the plan was made for, but may compute them in another order. A value that depends on
    no carrying one is made where it is first needed. O(V + E).
    """
    units = precedence(flow)
    order, late = list(nx.topological_sort(units)), _independent(flow)
    stages: dict[int, int] = {}
    for unit in order:
        members: set[str] = units.nodes[unit]["members"]
        if not members <= late:
            above = [stages[earlier] for earlier in units.pred[unit] if earlier in stages]
            stages[unit] = max([*_known(plan, flow, members), *above], default=0)
    for unit in reversed(order):
        members = units.nodes[unit]["members"]
        if members <= late:
            known = _known(plan, flow, members)
            stages[unit] = min((stages[reader] for reader in units.succ[unit]), default=max(known, default=0))
    return _plan(
        flow, {name: stages[unit] for unit in order for name in units.nodes[unit]["members"]}, plan.policy
    )


def _known(plan: Plan, flow: nx.DiGraph[str], names: set[str]) -> list[int]:
    """The stages that the plan gives to these values, or to those that they are parts of."""
    anchors: list[Anchor] = [flow.nodes[name]["anchor"] for name in names]
    found = (plan.stage_of.get(anchor, plan.stage_of.get(base_of(anchor))) for anchor in anchors)
    return [stage for stage in found if stage is not None]


def _plan(flow: nx.DiGraph[str], stages: dict[str, int], policy: str) -> Plan:
    """The plan with these stages, in which what depends on weights alone is recomputed where it is read."""
    stages = {name: stages[name] for name in computed(flow)}
    anchors: dict[str, Anchor] = {name: flow.nodes[name]["anchor"] for name in stages}
    stage_of = {anchors[name]: stage for name, stage in stages.items()}
    copies = {anchors[name]: tuple(sorted(others)) for name, others in _copies(flow, stages).items()}
    return Plan(stage_of, copies, policy)


def before(flow: nx.DiGraph[str], cuts: Sequence[int]) -> dict[str, Flags]:
    """For every computed value in graph order, which of the cuts it lies before.

    A value without a gradient lies before a cut if the carrying values that it depends on do; one
    that depends on none, a mask or a position, if one of its readers does, so it is made where it is first
    needed. The cuts must be admissible and need not be nested. O(V + E) operations on as many flags as cuts.
    """
    units = precedence(flow)
    order = list(nx.topological_sort(units))
    given = dict(zip(carrying(flow), _columns(cuts, len(carrying(flow))), strict=True))
    late = _independent(flow)
    earliest: dict[int, Flags] = {}
    for unit in order:
        members: set[str] = units.nodes[unit]["members"]
        held = next((given[name] for name in members if name in given), None)
        above = [earliest[earlier] for earlier in units.pred[unit]]
        earliest[unit] = (
            np.logical_and.reduce([np.ones(len(cuts), dtype=bool), *above]) if held is None else held
        )
    final: dict[int, Flags] = {}
    for unit in reversed(order):
        later = [final[reader] for reader in units.succ[unit]]
        waits = later and units.nodes[unit]["members"] <= late
        final[unit] = np.logical_or.reduce(later) if waits else earliest[unit]
    unit_of = {name: unit for unit in order for name in units.nodes[unit]["members"]}
    return {name: final[unit_of[name]] for name in computed(flow)}


def _columns(cuts: Sequence[int], values: int) -> NDArray[np.bool_]:
    """The masks turned on their side: a row of flags for each value."""
    size = values // 8 + 1
    packed = np.frombuffer(b"".join(cut.to_bytes(size, "little") for cut in cuts), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(len(cuts), size), axis=1, bitorder="little")
    return np.ascontiguousarray(bits[:, :values].T).astype(bool)


def _independent(flow: nx.DiGraph[str]) -> set[str]:
    """The values that depend on no carrying value and are none."""
    found: set[str] = set()
    for name, facts in flow.nodes(data=True):
        if not facts["carries"] and found.issuperset(flow.pred[name]):
            found.add(name)
    return found


def _copies(flow: nx.DiGraph[str], stages: dict[str, int]) -> dict[str, set[int]]:
    """Which stages recompute which values beside the one that owns them."""
    copies: dict[str, set[int]] = {}
    for name in reversed(stages):
        facts: dict[str, Any] = flow.nodes[name]
        if facts["fed"] or facts["impure"]:
            continue
        readers = [reader for reader in flow.succ[name] if reader in stages]
        again = set[int]().union(*(copies.get(reader, ()) for reader in readers))
        if facts["requires_grad"]:
            again |= {stages[reader] for reader in readers}
        if others := again - {stages[name]}:
            copies[name] = others
    return copies
