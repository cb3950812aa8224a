"""What a user forbids a plan to do, put into the dataflow."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
    `a&b` are the values of both. What is not one tensor stands for the parts that it is taken into.
    `tied` keeps together all that reads one parameter, or a weight made from it, so that a plan has each
    parameter in one stage. O(V + E) an item.

    Raises:
        UnknownNameError: some items name nothing in this graph; says which come close.
    """
    if not (together or avoid or tied):
        return flow
    flow = flow.copy()
    named = values_named(flow, dict.fromkeys([*together, *avoid]))
    groups = [named[item] for item in together]
    if tied:
        groups += _readers(flow)
    already: defaultdict[int, list[str]] = defaultdict(list)
    for name in computed(flow):
        if (number := flow.nodes[name]["together"]) is not None:
            already[number].append(name)
    for item in avoid:
        for name in named[item]:
            flow.nodes[name]["crossable"] = False
    mark_together(flow, [*already.values(), *groups])
    return flow


def values_named(flow: nx.DiGraph[str], items: Iterable[str]) -> dict[str, list[str]]:
    """The computed nodes that each item means, which is as for `constrained`.

    Raises:
        UnknownNameError: some items name nothing in this graph; says which come close.
    """
    around = {name: paths_around(flow.nodes[name]["module"]) for name in computed(flow)}
    names = {name: [flow.nodes[name]["anchor"], *paths] for name, paths in around.items()}
    found: dict[str, list[str]] = {}
    problems: list[str] = []
    for item in items:
        meant: dict[str, None] = {}
        for pattern in item.split("&"):
            matches = [name for name, known in names.items() if any(fnmatchcase(k, pattern) for k in known)]
            if not matches:
                problems.append(_unknown(pattern, {each for known in names.values() for each in known}))
            meant |= dict.fromkeys(part for name in matches for part in [name, *_parts(flow, name)])
        found[item] = list(meant)
    UnknownNameError.unless_none("a constraint names what is not in this graph", problems)
    return found


def _unknown(pattern: str, known: set[str]) -> str:
    close = difflib.get_close_matches(pattern, sorted(known), n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{pattern!r} matches no value and no module.{hint}"


def _parts(flow: nx.DiGraph[str], name: str) -> Iterator[str]:
    """The values that one which is no tensor is taken into."""
    facts = flow.nodes[name]
    if facts["is_tensor"] or facts["together"] is None:
        return
    for reader in flow.succ[name]:
        if flow.nodes[reader]["together"] == facts["together"]:
            yield reader
            yield from _parts(flow, reader)


def _readers(flow: nx.DiGraph[str]) -> list[list[str]]:
    """The computed nodes that would need one parameter in their stage, for each that several need.

    A weight that is made in the graph is made again in each stage that reads it, from the parameters.
    """
    made_of: dict[str, dict[str, None]] = {}
    readers: defaultdict[str, list[str]] = defaultdict(list)
    for name in computed(flow):
        facts = flow.nodes[name]
        sources = [source for source in flow.pred[name] if source in made_of]
        all_of = dict.fromkeys(each for source in sources for each in made_of[source])
        again = dict.fromkeys(
            each for source in sources if flow.nodes[source]["requires_grad"] for each in made_of[source]
        )
        own = dict.fromkeys(facts["parameters"])
        if not facts["fed"]:
            made_of[name] = own | all_of
        for parameter in own | again:
            readers[parameter].append(name)
    return [names for names in readers.values() if len(names) > 1]
