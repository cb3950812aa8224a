"""Which stage computes each value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx

from passes.anchors import Anchor, anchor_of, base_of
from passes.errors import SpecError

_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """A stage for every computed value.

    The map is total on purpose. Naming only the values that cross leaves a side branch
    (an embedding read late, say) with no answer to which stage should compute it. `copies`
    lists pure values that are recomputed in other stages instead of sent there. `policy` is
    the text form of what chose the stages, so parsing it gives the chooser back.
    """

    stage_of: Mapping[Anchor, int]
    copies: Mapping[Anchor, tuple[int, ...]] = field(default_factory=dict)
    policy: str = "hand"

    def __str__(self) -> str:
        sizes = [0] * len(self)
        for stage in self.stage_of.values():
            sizes[stage] += 1
        values = ", ".join(map(str, sizes))
        return f"{len(self)} stages of {values} values, by {self.policy}"

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
        there = {anchor_of(node): node for node in graph.nodes if "anchor" in node.meta}
        if missing := [anchor for anchor in there if anchor not in self.stage_of]:
            yield f"the plan gives no stage to {_some(missing)}; it belongs to another graph"
        if unknown := [anchor for anchor in self.stage_of if anchor not in there]:
            yield f"the plan speaks of {_some(unknown)}, not in this graph; it belongs to another graph"
        if missing or unknown:
            return
        if empty := sorted(set(range(len(self))) - set(self.stage_of.values())):
            yield f"no value is in stage {', '.join(map(str, empty))}"
        yield from self.backward_edges(self.assign(graph))

    def backward_edges(self, stages: Mapping[fx.Node, int]) -> Iterator[str]:
        """The edges from a later stage to an earlier one, given the stage of each node."""
        for node, stage in stages.items():
            for source in node.all_input_nodes:
                if stages.get(source, 0) > stage and stage not in self.copies.get(anchor_of(source), ()):
                    yield (
                        f"{anchor_of(source)} (stage {stages[source]}) feeds {anchor_of(node)} "
                        f"(stage {stage}); no edge may run backwards"
                    )

    def to_json(self) -> str:
        """Text that `from_json` reads back, and that diffs line by line."""
        return json.dumps(
            {
                "version": _VERSION,
                "policy": self.policy,
                "stage_of": dict(self.stage_of),
                "copies": {anchor: list(stages) for anchor, stages in self.copies.items()},
            },
            indent=1,
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        """The inverse of `to_json`.

        Raises:
            SpecError: the text is not the JSON of a plan, or of a newer version.
        """
        try:
            read = json.loads(text)
            if read["version"] > _VERSION:
                raise SpecError(f"this plan has version {read['version']}, newer than {_VERSION}.")
            stage_of = {Anchor(anchor): _stage(stage) for anchor, stage in read["stage_of"].items()}
            copies = {Anchor(anchor): tuple(map(_stage, stages)) for anchor, stages in read["copies"].items()}
            return Plan(stage_of, copies, str(read["policy"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"this is not the JSON of a plan: {type(error).__name__}: {error}") from None


def _stage(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a stage is a number from 0 up, not {value!r}")
    return value


def _some(anchors: list[Anchor]) -> str:
    shown = ", ".join(anchors[:5])
    return shown if len(anchors) <= 5 else f"{shown} and {len(anchors) - 5} more"
