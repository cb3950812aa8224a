"""Cuts after values that are given, and what stands against them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import networkx as nx

from passes.anchors import paths_around
from passes.dataflow import carrying, computed, precedence

if TYPE_CHECKING:
    from collections.abc import Mapping


def returned(flow: nx.DiGraph[str], paths: Collection[str]) -> dict[str, str]:
    """The last value of each module that others read, by preference one with a gradient.

    A module without such a value is left out. O(V + E) times the depth of the modules.
    """
    wanted = set(paths)
    around = {name: wanted.intersection(paths_around(flow.nodes[name]["module"])) for name in flow}
    found: dict[str, str] = {}
    learned: dict[str, str] = {}
    for name in computed(flow):
        for path in around[name]:
            if any(path not in around[reader] for reader in flow.succ[name]):
                found[path] = name
                if flow.nodes[name]["carries"]:
                    learned[path] = name
    return found | learned


def tensors(flow: nx.DiGraph[str], value: str) -> list[str]:
    """The value if it is one tensor; otherwise the first tensors with a gradient in it."""
    return [value] if flow.nodes[value]["is_tensor"] else list(_unpacked(flow, value))


def depths(flow: nx.DiGraph[str], cuts: Collection[str]) -> dict[str, int]:
    """How many cuts lie one after another above each computed value; the same for all of a unit. O(V + E)."""
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


def obstacles(flow: nx.DiGraph[str], value: str, depth: Mapping[str, int]) -> Iterator[str]:
    """Why no cut lies after a value, given the `depths` of cuts that it is one of."""
    readers = [reader for reader in flow.succ[value] if flow.nodes[reader]["carries"]]
    if not readers:
        yield f"nothing that learns comes after {anchor(flow, value)}; name an earlier value"
    elif not flow.nodes[value]["crossable"]:
        yield f"avoid forbids a cut after {anchor(flow, value)}; name another value"
    elif all(depth[reader] == depth[value] for reader in readers):
        near = ", ".join(anchor(flow, reader) for reader in readers)
        yield (
            f"{anchor(flow, value)} must stay in one stage with {near}, which reads it: they share "
            "memory that one of them writes, a tuple, random numbers in order, or a constraint; cut elsewhere"
        )


def stuck(flow: nx.DiGraph[str], cuts: Collection[str], depth: Mapping[str, int]) -> Iterator[str]:
    """The carrying values that cross though no cut was asked for after them, and that may not."""
    for value in carrying(flow):
        later = [r for r in flow.succ[value] if flow.nodes[r]["carries"] and depth[r] > depth[value]]
        if not later or flow.nodes[value]["crossable"] or value in cuts:
            continue
        if flow.nodes[value]["is_tensor"]:
            yield (
                f"{anchor(flow, value)} would cross to {anchor(flow, later[0])}, and avoid forbids that; "
                "cut elsewhere"
            )
        else:
            yield (
                f"{anchor(flow, value)} is not one tensor and would cross to {anchor(flow, later[0])}; "
                "only tensors can"
            )


def anchor(flow: nx.DiGraph[str], value: str) -> str:
    """The anchor of a value as text."""
    return str(flow.nodes[value]["anchor"])


def _unpacked(flow: nx.DiGraph[str], value: str) -> Iterable[str]:
    """The first tensors that come out of a value when it is taken apart."""
    group = flow.nodes[value]["together"]
    for reader in flow.succ[value]:
        if group is not None and flow.nodes[reader]["together"] == group and flow.nodes[reader]["carries"]:
            yield from tensors(flow, reader)
