"""Which stage computes each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise

from torch import fx

from passes import plan_json
from passes.anchors import Anchor, anchor_of, base_of
from passes.dataflow import dataflow
from passes.plan_diff import difference
from passes.recurrences import recurrences
from passes.values import value_of
from passes.words import counted

_SHOWN = 8
"""Edges that run backwards which are told one by one; of the others only how many there are."""


@dataclass(frozen=True)
class Plan:
    """A stage for every computed value.

    The map is total on purpose. Naming only the values that cross leaves a side branch
    (an embedding read late, say) with no answer to which stage should compute it. `copies`
    lists pure values that are recomputed in other stages instead of sent there. `policy` is
    the text form of what chose the stages, so parsing it gives the chooser back. Each group of `joint` are
    values that cross as one boundary, with one synthesizer that sees all of them. `time` names recurrent
    layers and unrolled loops, each with the number of steps after which its state is cut, again and again;
    such a cut is inside of a stage. `sheet` is what the plan
    means on its graph, if whoever made it has written that down; its text is then the plan's.
    """

    stage_of: Mapping[Anchor, int]
    copies: Mapping[Anchor, tuple[int, ...]] = field(default_factory=dict)
    policy: str = "hand"
    joint: tuple[tuple[Anchor, ...], ...] = ()
    time: Mapping[Anchor, int] = field(default_factory=dict[Anchor, int])
    sheet: object = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.summary if self.sheet is None else str(self.sheet)

    @property
    def summary(self) -> str:
        """One line: how many stages of how many values, and what chose them."""
        sizes = [0] * len(self)
        for stage in self.stage_of.values():
            sizes[stage] += 1
        values = f"{', '.join(map(str, sizes))} {'value' if sizes == [1] else 'values'}"
        time = "".join(f"; {name} cut in time every {every}" for name, every in self.time.items())
        return f"{counted(len(self), 'stage')} of {values}, by {self.policy}{time}"

    def __len__(self) -> int:
        return 1 + max(self.stage_of.values(), default=0)

    def assign(self, graph: fx.Graph) -> dict[fx.Node, int]:
        """A stage for every computed node of a graph, in graph order.

        A value that the plan does not know (the graph of another mode may hold a few more) belongs
        to the latest of the stages that it reads from. O(V + E).
        """
        stages: dict[fx.Node, int] = {}
        for node in graph.nodes:
            if node.op in {"placeholder", "get_attr", "output"}:
                continue
            anchor = anchor_of(node)
            known = self.stage_of.get(anchor, self.stage_of.get(base_of(anchor)))
            latest = max((stages.get(source, 0) for source in node.all_input_nodes), default=0)
            stages[node] = latest if known is None else known
        return stages

    def problems(self, graph: fx.Graph) -> Iterator[str]:
        """Everything that stops this plan from being carried out on the graph that it was made for."""
        there = [anchor_of(node) for node in graph.nodes if "anchor" in node.meta]
        if apart := difference(self.stage_of, there):
            yield apart
            return
        yield from self._gaps()
        yield from self._wrong_time(graph)
        yield from self._wrong_copies(graph)
        stages = self.assign(graph)
        wrong = list(self._backward(stages))
        for source, node in wrong[:_SHOWN]:
            yield (
                f"{_edge(source, node, stages)}. Put {anchor_of(source)} into stage {stages[node]} "
                f"or below, or {anchor_of(node)} into stage {stages[source]} or above"
            )
        if len(wrong) > _SHOWN:
            yield f"{len(wrong) - _SHOWN} more edges run backwards"

    def _gaps(self) -> Iterator[str]:
        used = sorted(set(self.stage_of.values()))
        moved = [f"{at} for {stage}" for at, stage in enumerate(used) if at != stage]
        if moved:
            shown = ", ".join(moved[:_SHOWN]) + (", and so on" if len(moved) > _SHOWN else "")
            gaps = (stage for one, two in pairwise([-1, *used]) for stage in range(one + 1, two))
            missing = ", ".join(map(str, islice(gaps, _SHOWN)))
            yield f"no value is in stage {missing}, and stages are numbered without a gap: write {shown}"

    def _wrong_copies(self, graph: fx.Graph) -> Iterator[str]:
        """What cannot be recomputed: only what is made of weights alone gets the same gradient that way."""
        fed: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op == "placeholder" or not fed.isdisjoint(node.all_input_nodes):
                fed.add(node)
            stages = self.copies.get(node.meta.get("anchor", Anchor("")), ())
            if stages and (node in fed or value_of(node).random or value_of(node).mutates):
                yield (
                    f"{anchor_of(node)} is to be recomputed in stage {', '.join(map(str, stages))}, and only "
                    "what is made of weights alone, the same each time, can be: take it out of copies"
                )
        there = {node.meta.get("anchor") for node in graph.nodes}
        for anchor, stages in self.copies.items():
            if anchor not in there:
                yield f"copies speak of {anchor}, which is not in this graph"
            elif beyond := [stage for stage in stages if stage >= len(self)]:
                there_are = counted(len(self), "stage")
                yield f"{anchor} is to be recomputed in stage {beyond[0]}, and the plan has {there_are}"

    def _wrong_time(self, graph: fx.Graph) -> Iterator[str]:
        """What is to be cut in time and is not in the graph."""
        owner = graph.owning_module
        there = recurrences(dataflow(owner)) if self.time and owner is not None else tuple(self.time)
        for name in self.time:
            if name not in there:
                yield (
                    f"{name} is to be cut in time, and no recurrent layer or unrolled loop is called that; "
                    f"there are {', '.join(there) or 'none'}"
                )

    def backward_edges(self, stages: Mapping[fx.Node, int]) -> Iterator[str]:
        """The edges from a later stage to an earlier one, given the stage of each node."""
        for source, node in self._backward(stages):
            yield _edge(source, node, stages)

    def _backward(self, stages: Mapping[fx.Node, int]) -> Iterator[tuple[fx.Node, fx.Node]]:
        for node, stage in stages.items():
            for source in node.all_input_nodes:
                if stages.get(source, 0) > stage and stage not in self.copies.get(anchor_of(source), ()):
                    yield source, node

    def to_json(self) -> str:
        """Text that `from_json` reads back, and that diffs line by line. It says nothing of the sheet."""
        return plan_json.write(self.stage_of, self.copies, self.policy, self.joint, self.time)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The inverse of `to_json`; only the version and the stages may not be left out.

        Raises:
            SpecError: the text is not the JSON of a plan, or of a newer version; lists all that is wrong.
        """
        stage_of, copies, policy, joint, time = plan_json.read(text)
        return Plan(
            {Anchor(name): stage for name, stage in stage_of.items()},
            {Anchor(name): stages for name, stages in copies.items()},
            policy,
            tuple(tuple(map(Anchor, group)) for group in joint),
            {Anchor(name): every for name, every in time.items()},
        )


def _edge(source: fx.Node, reader: fx.Node, stages: Mapping[fx.Node, int]) -> str:
    return (
        f"{anchor_of(source)} (stage {stages[source]}) feeds {anchor_of(reader)} "
        f"(stage {stages[reader]}); no edge may run backwards"
    )
