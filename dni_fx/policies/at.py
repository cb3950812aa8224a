"""Cut after the values that the user names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
from typing_extensions import override

from dni_fx.errors import PlanError
from dni_fx.policies.base import Policy
from passes import Plan, UnknownNameError
from passes.anchors import Anchor, module_of, paths_around
from passes.dataflow import carrying, computed, precedence
from passes.placement import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class At(Policy):
    """A value is in the stage that says how many named values lie one after another above it.

    So named values that depend on one another are cuts of their own, and parallel ones (the two towers
    of an encoder) together are one cut. A name is the path of a module, for what its last call
    returned; an anchor such as `layers.0@1:add.2`; or the name of an fx node. It is understood as the
    first of these that there is. A value that is not one tensor is cut where it is unpacked.
    """

    name = "at"

    after: tuple[str, ...] = ()

    @override
    def choose(self, flow: nx.DiGraph[str]) -> Plan:
        """Cut after each of the names.

        Raises:
            passes.UnknownNameError: a name means nothing in this graph; says which come close.
            PlanError: a gradient does not cross where a name asks for a cut.
        """
        cuts = {value for name in self.after for value in self._values(flow, name)}
        depth = _depths(flow, cuts)
        self._check(flow, cuts, depth)
        return plan_of(flow, {name: depth[name] for name in carrying(flow)}, str(self))

    def _values(self, flow: nx.DiGraph[str], name: str) -> list[str]:
        """The tensors after which the name cuts."""
        value = _find(flow, name)
        if not flow.nodes[value]["carries"]:
            raise PlanError(
                f"{self} cannot cut after {name!r}: no gradient runs through {_anchor(flow, value)}, so "
                "there is nothing to decouple. Name a value that depends on an input and a trained parameter."
            )
        return [value] if flow.nodes[value]["is_tensor"] else list(_unpacked(flow, value))

    def _check(self, flow: nx.DiGraph[str], cuts: set[str], depth: dict[str, int]) -> None:
        problems: list[str] = []
        for value in (name for name in flow if name in cuts):
            readers = [r for r in flow.succ[value] if flow.nodes[r]["carries"]]
            if not readers:
                problems.append(
                    f"nothing that learns comes after {_anchor(flow, value)}; name an earlier value"
                )
            elif all(depth[reader] == depth[value] for reader in readers):
                near = ", ".join(_anchor(flow, reader) for reader in readers)
                problems.append(
                    f"{_anchor(flow, value)} must stay in one stage with {near}, which reads it: they share "
                    "memory that one of them writes, a tuple, or random numbers in order; cut elsewhere"
                )
        for value in carrying(flow):
            later = [r for r in flow.succ[value] if flow.nodes[r]["carries"] and depth[r] > depth[value]]
            if later and not flow.nodes[value]["is_tensor"]:
                problems.append(
                    f"{_anchor(flow, value)} is not one tensor and would cross to {_anchor(flow, later[0])}; "
                    "only tensors can"
                )
        if problems:
            raise PlanError(f"{self} cannot be carried out:" + "".join(f"\n  * {each}" for each in problems))


def _find(flow: nx.DiGraph[str], name: str) -> str:
    """The node that a name means.

    Raises:
        UnknownNameError: there is none.
    """
    if (value := _returned(flow, name)) is not None:
        return value
    anchors: dict[Anchor, str] = {flow.nodes[value]["anchor"]: value for value in computed(flow)}
    if (value := anchors.get(Anchor(name))) is not None:
        return value
    if name in flow and flow.nodes[name]["anchor"] is not None:
        return name
    modules = dict.fromkeys(path for anchor in anchors for path in paths_around(module_of(anchor)))
    close = difflib.get_close_matches(name, [*modules, *anchors, *computed(flow)], n=3)
    hint = f" Did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?" if close else ""
    top = ", ".join(path for path in modules if "." not in path) or "none"
    raise UnknownNameError(
        f"no value to cut after is named {name!r}: it is the path of no module that the graph calls, no "
        f"anchor and no node.{hint} The modules at the top are {top}."
    )


def _returned(flow: nx.DiGraph[str], path: str) -> str | None:
    """The last value of a module that others read, by preference one with a gradient."""
    inside = {name for name in computed(flow) if path in paths_around(flow.nodes[name]["module"])}
    read = [name for name in flow if name in inside and not inside.issuperset(flow.succ[name])]
    learned = [name for name in read if flow.nodes[name]["carries"]]
    return next(reversed(learned or read), None)


def _unpacked(flow: nx.DiGraph[str], value: str) -> Iterable[str]:
    """The first tensors that come out of a value when it is taken apart."""
    group = flow.nodes[value]["together"]
    for reader in flow.succ[value]:
        if group is not None and flow.nodes[reader]["together"] == group and flow.nodes[reader]["carries"]:
            if flow.nodes[reader]["is_tensor"]:
                yield reader
            else:
                yield from _unpacked(flow, reader)


def _depths(flow: nx.DiGraph[str], cuts: set[str]) -> dict[str, int]:
    """How many cuts lie one after another above each computed value; the same for all of a unit."""
    units = precedence(flow)
    depth: dict[str, int] = {}
    for unit in nx.topological_sort(units):
        members: set[str] = units.nodes[unit]["members"]
        before = [name for earlier in units.pred[unit] for name in units.nodes[earlier]["members"]]
        deepest = max((depth[name] for name in before), default=0)
        for name in members:
            if flow.nodes[name]["carries"]:
                crossed = (depth[s] + 1 for s in flow.pred[name] if s in cuts and s not in members)
                deepest = max(deepest, *crossed, 0)
        depth |= dict.fromkeys(members, deepest)
    return depth


def _anchor(flow: nx.DiGraph[str], value: str) -> str:
    return str(flow.nodes[value]["anchor"])
