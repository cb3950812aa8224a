"""Values that one stage sends to the same later stages, as one boundary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from passes.anchors import Anchor

if TYPE_CHECKING:
    import networkx as nx

Way = tuple[int, tuple[int, ...]]
"""The stage that a value leaves, and the stages that read it."""


def ways(flow: nx.DiGraph[str], stages: Mapping[str, int], copies: Container[Anchor] = ()) -> dict[str, Way]:
    """The way of each value that crosses with a gradient.

    `stages` holds the stage of every computed node, and `copies` is what is made again where it is read.
    In graph order. O(V + E).
    """
    found: dict[str, Way] = {}
    for name, stage in stages.items():
        facts = flow.nodes[name]
        if not facts["carries"] or facts["anchor"] in copies:
            continue
        later = [reader for reader in flow.succ[name] if stages.get(reader, -1) > stage]
        if any(flow.nodes[reader]["carries"] for reader in later):
            found[name] = stage, tuple(sorted({stages[reader] for reader in later}))
    return found


def joinable(
    flow: nx.DiGraph[str],
    stages: Mapping[str, int],
    crossing: Mapping[str, Way],
    wanted: Iterable[Iterable[str]],
) -> tuple[tuple[Anchor, ...], ...]:
    """Of each group of values that are wanted as one boundary, those that can be: they cross the same way.

    Each value is in one group at most, the first that names it. O(V + E).
    """
    place = {name: at for at, name in enumerate(flow)}
    waiting = dict(crossing)
    found: list[tuple[Anchor, ...]] = []
    for group in wanted:
        alike: dict[Way, list[str]] = {}
        for name in sorted(set(group) & waiting.keys(), key=place.__getitem__):
            alike.setdefault(waiting.pop(name), []).append(name)
        for (stage, _), names in alike.items():
            readers = (reader for name in names for reader in flow.succ[name])
            first = min(place[reader] for reader in readers if stages.get(reader, -1) > stage)
            if len(names) > 1 and place[names[-1]] < first:
                found.append(tuple(flow.nodes[name]["anchor"] for name in names))
    return tuple(found)


def misjoined(
    flow: nx.DiGraph[str],
    stages: Mapping[str, int],
    crossing: Mapping[str, Way],
    joint: Sequence[Sequence[Anchor]],
) -> Iterator[str]:
    """The groups of anchors that cannot be one boundary each, and why. O(V + E)."""
    named: dict[Anchor, str] = {flow.nodes[name]["anchor"]: name for name in stages}
    counts = Counter(anchor for group in joint for anchor in group)
    wanted = [[named[anchor] for anchor in group if anchor in named] for group in joint]
    possible = {frozenset(group) for group in joinable(flow, stages, crossing, wanted)}
    for group in joint:
        if frozenset(group) not in possible or max(counts[anchor] for anchor in group) > 1:
            how = "; ".join(_how(anchor, named, crossing, counts) for anchor in dict.fromkeys(group))
            yield (
                f"{', '.join(group) or 'no values'} cannot be one boundary: {how or 'name two or more'}. "
                "Values cross as one if there are two or more, each named once, that go from one stage to "
                "the same later stages, where none is read before all are made"
            )


def _how(
    anchor: Anchor, named: Mapping[Anchor, str], crossing: Mapping[str, Way], counts: Counter[Anchor]
) -> str:
    if anchor not in named:
        return f"{anchor} is not in this graph"
    if (way := crossing.get(named[anchor])) is None:
        return f"{anchor} crosses no cut with a gradient"
    often = f", and is named {counts[anchor]} times" if counts[anchor] > 1 else ""
    return f"{anchor} goes from stage {way[0]} to {', '.join(map(str, way[1]))}{often}"
