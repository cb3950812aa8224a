"""Loops over time that a capture has unrolled: repeated calls of the same parameters, one after the other.

    ── x[0] ─ cell ── x[1] ─ cell@1 ─|─ x[2] ─ cell@2 ── x[3] ─ cell@3 ── stack       every=2
                 h          h        |     h          h
                                   state

An iteration begins where the operations begin that come before every call, as they come before the first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.anchors import Anchor
from passes.dataflow import computed

if TYPE_CHECKING:
    import networkx as nx

_CALL, _NUMBER = re.compile(r"@\d+"), re.compile(r"\.\d+")


@dataclass(frozen=True)
class State:
    """The values that go from one iteration to the next, and those of their readers that come there."""

    values: tuple[str, ...]
    readers: frozenset[str]


@dataclass(frozen=True)
class Loop:
    """One loop: the calls that count its iterations, and every call of which the next one depends on it.

    `name` is the path of the module that is called, or the parameter that is read if it is the model's own.
    """

    name: Anchor
    calls: tuple[str, ...]
    chained: frozenset[str]


def loops(flow: nx.DiGraph[str]) -> dict[Anchor, Loop]:
    """The loops of a graph by name, in graph order.

    Parameters that are called in turn (the cells of a stack, the gates of one) are of one loop, which the
    one counts that is called least often, but twice only if there is no other. O(V + E) for every
    parameter that is read more than once.
    """
    place = {name: at for at, name in enumerate(flow)}
    chains = sorted(_chains(flow), key=lambda chain: place[chain.calls[0]])
    clusters: list[list[Loop]] = []
    end = -1
    for chain in chains:
        if place[chain.calls[0]] > end:
            clusters.append([])
        clusters[-1].append(chain)
        end = max(end, place[chain.calls[-1]])
    found = [min(each, key=lambda chain: (len(chain.calls) < 3, len(chain.calls))) for each in clusters]
    return {
        one.name: Loop(one.name, one.calls, frozenset(call for each in cluster for call in each.calls))
        for one, cluster in zip(found, clusters, strict=True)
    }


def states(flow: nx.DiGraph[str], loop: Loop, every: int) -> list[State]:
    """What goes from each `every`-th iteration of a loop to the one after it, where a cut in time lies.

    Of all that is made in the loop and read there later, that is what later calls depend on: sums of losses
    and lists of outputs are not. O(V + E), and O(V) for each cut.
    """
    names = computed(flow)
    place = {name: at for at, name in enumerate(names)}
    calls = [place[call] for call in loop.calls]
    looks = [_look(flow.nodes[name]["anchor"]) for name in names]
    lead, end = _lead(looks, calls), _end(looks, calls)
    made, reach = _made(flow, names, loop), _reach(flow, names, loop, place)
    found: list[State] = []
    for call in range(every, len(calls), every):
        start, period = calls[call] - lead, calls[call] - calls[call - 1]

        def is_carried(at: int, start: int = start, period: int = period) -> bool:
            # No call comes after the last iteration: there it is what was carried an iteration before.
            before = at - period
            return reach[names[at]] >= start or (
                before >= 0 and looks[before] == looks[at] and reach[names[before]] >= start - period
            )

        inside = set(names[start:end])
        values = tuple(
            name
            for at, name in enumerate(names[:start])
            if name in made and not inside.isdisjoint(flow.succ[name]) and is_carried(at)
        )
        readers = frozenset(reader for value in values for reader in flow.succ[value] if reader in inside)
        found.append(State(values, readers))
    return found


def misstated(flow: nx.DiGraph[str], loop: Loop, found: Sequence[State]) -> Iterator[str]:
    """Why the states of a loop cannot be cut by one boundary each, all of one form."""

    def anchors(state: State) -> str:
        return ", ".join(str(flow.nodes[value]["anchor"]) for value in state.values) or "nothing"

    for state in found:
        for value in state.values:
            if not flow.nodes[value]["is_tensor"]:
                yield (
                    f"{flow.nodes[value]['anchor']} goes from one iteration of {loop.name} to the next and "
                    "is not one tensor: unpack it (h, c = cell(x, (h, c))), or capture with frontend=export"
                )
                return
    forms = {tuple(flow.nodes[value]["bytes"] for value in state.values) for state in found}
    if len(forms) > 1 or () in forms:
        first, other = (
            found[0],
            next((each for each in found if _form(flow, each) != _form(flow, found[0])), found[-1]),
        )
        yield (
            f"the state of the loop over {loop.name} was looked for in what goes from one iteration to the "
            f"next, and it is {anchors(first)} once and {anchors(other)} another time. One synthesizer needs "
            "the same tensors each time: carry what the loop remembers in tensors of fixed size, or leave "
            f"{loop.name} out with module="
        )


def _form(flow: nx.DiGraph[str], state: State) -> tuple[int, ...]:
    return tuple(flow.nodes[value]["bytes"] for value in state.values)


def _chains(flow: nx.DiGraph[str]) -> Iterator[Loop]:
    """A loop for each parameter that is read again by what depends on what has read it before."""
    readers: dict[tuple[str, str], list[str]] = defaultdict(list)
    whole: set[str] = set()  # what layers read that run over a sequence themselves
    for name in computed(flow):
        facts = flow.nodes[name]
        if facts["steps"] > 1:
            whole.update(facts["parameters"])
        for parameter in facts["parameters"]:
            readers[parameter, _look(facts["anchor"])].append(name)
    seen: set[tuple[str, ...]] = set()
    for (parameter, _), calls in readers.items():
        same = tuple(calls)
        if len(calls) > 1 and parameter not in whole and same not in seen and _is_chain(flow, calls):
            seen.add(same)
            module = flow.nodes[calls[0]]["module"]
            yield Loop(Anchor(module or parameter), same, frozenset(same))


def _look(anchor: Anchor) -> str:
    """What the anchors of one operation have in common in all iterations."""
    module, colon, operation = anchor.partition(":")
    return _CALL.sub("", module) + colon + _NUMBER.sub("", operation)


def _is_chain(flow: nx.DiGraph[str], calls: Sequence[str]) -> bool:
    """Whether a gradient goes from each call to the one before it."""
    waiting = iter(calls)
    first, following = next(waiting), next(waiting)
    reached = {first}
    names = computed(flow)
    for name in names[names.index(first) + 1 :]:
        facts = flow.nodes[name]
        if facts["requires_grad"] and not reached.isdisjoint(flow.pred[name]):
            reached.add(name)
        if name == following:
            if name not in reached:
                return False
            reached = {name}
            if (following := next(waiting, "")) == "":
                return True
    return False


def _lead(looks: Sequence[str], calls: Sequence[int]) -> int:
    """How many operations of an iteration come before its call."""
    first, second = calls[:2]
    most = min(second - first - 1, first)
    return next((n for n in range(most) if looks[first - n - 1] != looks[second - n - 1]), most)


def _end(looks: Sequence[str], calls: Sequence[int]) -> int:
    """Where the last iteration ends: with the last operation that came after the call before, too."""
    *_, before, last = calls
    most = min(last - before - 1 - _lead(looks, calls), len(looks) - last - 1)
    same = next((n for n in range(most) if looks[before + n + 1] != looks[last + n + 1]), most)
    return last + same + 1


def _made(flow: nx.DiGraph[str], names: Sequence[str], loop: Loop) -> set[str]:
    """The values that a gradient goes from to a call of the loop."""
    made: set[str] = set()
    for name in names:
        if name in loop.chained or (
            flow.nodes[name]["requires_grad"] and not made.isdisjoint(flow.pred[name])
        ):
            made.add(name)
    return {name for name in made if flow.nodes[name]["carries"]}


def _reach(
    flow: nx.DiGraph[str], names: Sequence[str], loop: Loop, place: Mapping[str, int]
) -> dict[str, int]:
    """The last call of the loop that depends on each value, by its place; -1 where none does."""
    reach: dict[str, int] = {}
    for name in reversed(names):
        own = place[name] if name in loop.chained else -1
        later = [
            reach[reader]
            for reader in flow.succ[name]
            if flow.nodes[reader]["requires_grad"] and reader in reach
        ]
        reach[name] = max([own, *later])
    return reach
