"""What a user forbids a plan to do, put into the dataflow."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from passes.anchors import paths_around
from passes.dataflow import computed, mark_together
from passes.errors import UnknownNameError

if TYPE_CHECKING:
    import networkx as nx


def constrained(
    flow: nx.DiGraph[str], together: Sequence[str] = (), avoid: Sequence[str] = (), tied: bool = False
) -> nx.DiGraph[str]:
    """The dataflow with more nodes `together` and fewer `crossable`; itself if nothing is asked for.

    An item is the path of a module, for all values made inside of it, an anchor, or a pattern of either;
    `a&b` are the values of both. `tied` keeps the readers of each parameter together. O(V + E) an item.

    Raises:
        UnknownNameError: an item names nothing in this graph.
    """
    if not (together or avoid or tied):
        return flow
    flow = flow.copy()
    groups = [_named(flow, item) for item in together]
    if tied:
        groups += _readers(flow)
    already: defaultdict[int, list[str]] = defaultdict(list)
    for name in computed(flow):
        if (number := flow.nodes[name]["together"]) is not None:
            already[number].append(name)
    mark_together(flow, [*already.values(), *groups])
    for item in avoid:
        for name in _named(flow, item):
            flow.nodes[name]["crossable"] = False
    return flow


def _named(flow: nx.DiGraph[str], item: str) -> list[str]:
    """The computed nodes that an item means."""
    found = [name for part in item.split("&") for name in _matches(flow, part)]
    return list(dict.fromkeys(found))


def _matches(flow: nx.DiGraph[str], pattern: str) -> list[str]:
    found = [
        name
        for name in computed(flow)
        if fnmatchcase(flow.nodes[name]["anchor"], pattern) or _is_inside(flow.nodes[name]["module"], pattern)
    ]
    if not found:
        known = {name for each in computed(flow) for name in paths_around(flow.nodes[each]["module"])}
        close = difflib.get_close_matches(pattern, sorted(known), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UnknownNameError(f"the constraint {pattern!r} matches no value and no module.{hint}")
    return found


def _is_inside(module: str, pattern: str) -> bool:
    return any(fnmatchcase(path, pattern) for path in paths_around(module))


def _readers(flow: nx.DiGraph[str]) -> list[list[str]]:
    """The computed nodes that read one parameter, for each that several read."""
    readers: defaultdict[str, list[str]] = defaultdict(list)
    for name in computed(flow):
        for parameter in flow.nodes[name]["parameters"]:
            readers[parameter].append(name)
    return [names for names in readers.values() if len(names) > 1]
