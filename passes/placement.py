"""From cuts of the gradient-carrying values to a stage for every value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from passes.anchors import Anchor, base_of
from passes.dataflow import carrying, computed, precedence
from passes.joint import joinable, ways
from passes.plan import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]
    """One truth value for each cut."""

_AT_ONCE = 4096
"""Cuts that are looked at together: their flags for all values fit into memory."""


class Placement:
    """Where the values without a gradient go, given where the others are.

    A value that depends on carrying ones is placed with the last of these; one that depends on none, a mask
    or a position, with the first of its readers, so it is made where it is first needed. One that nothing
    reads, a counter of batches, is placed with the first carrying value of its module.
    """

    def __init__(self, flow: nx.DiGraph[str]) -> None:
        self.flow = flow
        self.units = precedence(flow)
        self.order = list(nx.topological_sort(self.units))
        late = _independent(flow, self.units, self.order)
        self._readers = {unit: list(self.units.succ[unit]) or self._beside(unit) for unit in late}

    def spread(self, given: Mapping[str, int]) -> dict[str, int]:
        """A number for every computed value in graph order, from numbers of the carrying ones.

        The numbers are stages, or places in an order, and must respect `precedence`. O(V + E).
        """
        found: dict[int, int] = {}
        for unit in self.order:
            held = next((given[name] for name in self._members(unit) if name in given), None)
            above = (found[earlier] for earlier in self.units.pred[unit])
            found[unit] = max(above, default=0) if held is None else held
        for unit in reversed(self._readers):
            found[unit] = min((found[reader] for reader in self._readers[unit]), default=found[unit])
        return self._named(found)

    def before(self, cuts: Sequence[int]) -> dict[str, Flags]:
        """For every computed value in graph order, which of the cuts it lies before.

        A cut is the mask of a `Frontier`. The cuts must be admissible and need not be nested.
        O(V + E) operations on as many flags as cuts.
        """
        names = carrying(self.flow)
        given = dict(zip(names, _columns(cuts, len(names)), strict=True))
        all_of_them = np.ones(len(cuts), dtype=bool)
        found: dict[int, Flags] = {}
        for unit in self.order:
            held = next((given[name] for name in self._members(unit) if name in given), None)
            if held is None:
                held = all_of_them
                for earlier in self.units.pred[unit]:
                    held = held & found[earlier]
            found[unit] = held
        for unit, readers in reversed(self._readers.items()):
            if readers:
                found[unit] = np.logical_or.reduce([found[reader] for reader in readers])
        return self._named(found)

    def plan(self, stages: Mapping[str, int], policy: str) -> Plan:
        """As `plan_of`, for the dataflow that this speaks of."""
        return _plan(self.flow, self.spread(stages), policy)

    def costs_before(self, cuts: Sequence[int], cost: Mapping[str, int]) -> NDArray[np.int64]:
        """What all that lies before each cut costs together. O(V) for each cut, a byte at a time."""
        found = np.zeros(len(cuts), dtype=np.int64)
        names = carrying(self.flow)
        others = [name for name in computed(self.flow) if cost[name] and not self.flow.nodes[name]["carries"]]
        by_byte = _sums_by_byte([cost[name] for name in names])
        for start in range(0, len(cuts), _AT_ONCE):
            part, some = found[start : start + _AT_ONCE], cuts[start : start + _AT_ONCE]
            for sums, column in zip(by_byte, _bytes_of(some, len(names)).T, strict=True):
                part += sums[column]
            for name, flags in self.before(some).items() if others else ():
                if not self.flow.nodes[name]["carries"]:
                    part += cost[name] * flags
        return found

    @cached_property
    def _first_of_module(self) -> dict[str, int]:
        """The unit of the first carrying value that each module makes."""
        unit_of = {name: unit for unit in self.order for name in self._members(unit)}
        names = reversed(carrying(self.flow))
        return {self.flow.nodes[name]["module"]: unit_of[name] for name in names}

    def _beside(self, unit: int) -> list[int]:
        modules = {self.flow.nodes[name]["module"] for name in self._members(unit)} - {""}
        return [self._first_of_module[module] for module in modules & self._first_of_module.keys()]

    def _members(self, unit: int) -> set[str]:
        return self.units.nodes[unit]["members"]

    def _named(self, found: Mapping[int, Any]) -> dict[str, Any]:
        named = {name: found[unit] for unit in self.order for name in self._members(unit)}
        return {name: named[name] for name in computed(self.flow)}


def plan_of(flow: nx.DiGraph[str], stages: Mapping[str, int], policy: str) -> Plan:
    """The plan with these stages of the carrying values, which are an admissible sequence of nested cuts.

    The other values find their stage by `Placement`. What is computed from weights alone is recomputed in
    each stage that reads it, unless it may run only once. O(V + E).
    """
    return Placement(flow).plan(stages, policy)


def refit(plan: Plan, flow: nx.DiGraph[str]) -> Plan:
    """The plan for another graph of the same model: where it cannot hold there, values move to later stages.

    The graph of another mode, of other sizes, or of another way through the code, has most values in common
    with the one that the plan was made for, but may compute them in another order. A value that depends on
    no carrying one is made where it is first needed. What cannot be joined there crosses by itself. O(V + E).
    """
    units = precedence(flow)
    order = list(nx.topological_sort(units))
    late = _independent(flow, units, order)
    stages: dict[int, int] = {}
    for unit in order:
        if unit not in late:
            above = [stages[earlier] for earlier in units.pred[unit] if earlier in stages]
            stages[unit] = max([*_known(plan, flow, units.nodes[unit]["members"]), *above], default=0)
    for unit in reversed(late):
        known = _known(plan, flow, units.nodes[unit]["members"])
        stages[unit] = min((stages[reader] for reader in units.succ[unit]), default=max(known, default=0))
    found = _plan(
        flow, {name: stages[unit] for unit in order for name in units.nodes[unit]["members"]}, plan.policy
    )
    found = replace(found, time=plan.time)
    if not plan.joint:
        return found
    named = {flow.nodes[name]["anchor"]: name for name in computed(flow)}
    return join(found, flow, [[named[each] for each in group if each in named] for group in plan.joint])


def join(plan: Plan, flow: nx.DiGraph[str], wanted: Iterable[Iterable[str]]) -> Plan:
    """The plan in which those of each group of values that cross the same way are one boundary. O(V + E)."""
    stages = {name: plan.stage_of[flow.nodes[name]["anchor"]] for name in computed(flow)}
    crossing = ways(flow, stages, plan.copies)
    return replace(plan, joint=joinable(flow, stages, crossing, wanted))


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


def _bytes_of(cuts: Sequence[int], values: int) -> NDArray[np.uint8]:
    """A row of bytes for each mask."""
    size = values // 8 + 1
    packed = np.frombuffer(b"".join(cut.to_bytes(size, "little") for cut in cuts), dtype=np.uint8)
    return packed.reshape(len(cuts), size)


def _columns(cuts: Sequence[int], values: int) -> NDArray[np.bool_]:
    """The masks turned on their side: a row of flags for each value."""
    bits = np.unpackbits(_bytes_of(cuts, values), axis=1, bitorder="little")
    return np.ascontiguousarray(bits[:, :values].T).astype(bool)


def _sums_by_byte(weights: Sequence[int]) -> NDArray[np.int64]:
    """For each byte of a mask and each number that it may be, the sum of the weights of its bits."""
    padded = np.zeros((len(weights) // 8 + 1) * 8, dtype=np.int64)
    padded[: len(weights)] = weights
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return padded.reshape(-1, 8) @ bits.T.astype(np.int64)


def _independent(flow: nx.DiGraph[str], units: nx.DiGraph[int], order: Sequence[int]) -> dict[int, None]:
    """The units that hold no carrying value and need not come after one, in this order."""
    found: dict[int, None] = {}
    for unit in order:
        carries = any(flow.nodes[name]["carries"] for name in units.nodes[unit]["members"])
        if not carries and all(earlier in found for earlier in units.pred[unit]):
            found[unit] = None
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
