"""How much memory training takes, by method, so that nobody cuts a model who need not."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from torch import fx

from dni_fx.early import early_release
from dni_fx.synthesizers import Synthesizer
from dni_fx.table import Column, show_table
from dni_fx.timeline import Timeline
from passes import Plan
from passes.bytes import show_bytes
from passes.values import value_of
from passes.words import counted

if TYPE_CHECKING:
    import networkx as nx

OPTIMIZERS: Mapping[str, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Tensors of the size of the parameters that an optimizer keeps."""


@dataclass(frozen=True)
class Method:
    """A way to train: the memory that it holds at most, and its extra compute as a part of plain training."""

    name: str
    bytes: int
    extra: float


@dataclass(frozen=True)
class Budget:
    """What a training step holds in memory, in bytes, at the example's batch size.

    `saved` is what autograd keeps of a whole forward pass, `pass_peak` that with the gradients that flow and
    without those of parameters, `largest` the gradient of the largest parameter, and `least` what any method
    needs for the optimizer to take its step. Predictions are for tensors alone: allocators, kernels' own
    workspaces and the framework come on top.
    """

    weights: int
    buffers: int
    gradients: int
    optimizer: int
    inputs: int
    outputs: int
    saved: int
    pass_peak: int
    largest: int
    least: int
    batch: int
    backprop: Method
    checkpointing: Method
    ours: Method

    @property
    def always(self) -> int:
        """What is there at any time: weights, buffers, the optimizer's state and the batch."""
        return self.weights + self.buffers + self.optimizer + self.inputs

    def accumulation(self, limit: int) -> Method | None:
        """Gradient accumulation over the largest micro-batches that fit; over single samples if none do.

        None where there is no batch to take apart. What a forward pass saves is taken to follow the batch.
        """
        if self.batch < 2:
            return None
        whole = self.pass_peak + 2 * self.outputs
        rest = self.always + self.gradients + self.largest
        size = min(max((limit - rest) * self.batch // max(whole, 1), 1), self.batch - 1)
        total = max(rest + math.ceil(whole * size / self.batch), self.least)
        return Method(f"accumulation, micro-batches of {size:,}", total, 0.0)

    def methods(self, limit: int) -> list[Method]:
        """All methods, the plainest first."""
        listed = (self.backprop, self.accumulation(limit), self.checkpointing, self.ours)
        return [method for method in listed if method is not None]

    def advice(self, limit: int) -> str:
        """What to do about memory, which is to cut the model only if nothing exact fits."""
        accumulation = self.accumulation(limit)
        if self.backprop.bytes <= limit:
            return "Plain backprop fits. It is exact and simpler, so memory is no reason to cut this model."
        if accumulation is not None and accumulation.bytes <= limit:
            return (
                f"Plain backprop does not fit, and gradient {accumulation.name}, does: exact, but batch "
                "norm sees micro-batches. Cut this model for memory only if those are too small."
            )
        if self.checkpointing.bytes <= limit:
            return (
                f"Of the exact methods {self.checkpointing.name}, fits, for {self.checkpointing.extra:.0%} "
                "more compute. Cut this model for memory only if that is too much."
            )
        if self.ours.bytes <= limit:
            return (
                "Nothing exact fits, and stages that are released early do. Their gradients are guesses: "
                "compare the accuracy with that of a smaller model or batch that is trained exactly."
            )
        least = min(self.methods(limit), key=lambda method: method.bytes)
        state = self.always + self.gradients
        why = (
            f" Weights, gradients, optimizer and batch alone take {show_bytes(state)}."
            if state > limit
            else ""
        )
        return f"Nothing fits; {least.name} comes closest, at {show_bytes(least.bytes)}.{why}"

    def data(self, limit: int) -> dict[str, Any]:
        """Everything as what JSON can hold."""
        parts = {name: value for name, value in dataclasses.asdict(self).items() if isinstance(value, int)}
        methods = [{**dataclasses.asdict(each), "fits": each.bytes <= limit} for each in self.methods(limit)]
        return {"limit": limit, **parts, "methods": methods, "advice": self.advice(limit)}

    def table(self, limit: int, width: int | None = None) -> str:
        """What each method takes, whether it fits, what it costs, and what to do."""
        parts = ("weights", "buffers", "gradients", "optimizer", "inputs", "saved")
        columns = [Column("method", may_shrink=True), *(Column(name, is_number=True) for name in _COLUMNS)]
        rows = [
            [each.name, show_bytes(each.bytes), "yes" if each.bytes <= limit else "no", f"{each.extra:+.0%}"]
            for each in self.methods(limit)
        ]
        return "\n".join(
            [
                f"memory of training in {show_bytes(limit)}: "
                + ", ".join(f"{name} {show_bytes(getattr(self, name))}" for name in parts),
                "",
                show_table(columns, rows, width),
                "",
                self.advice(limit),
            ]
        )


_COLUMNS = ("at most", "fits", "compute")


def budget_of(
    gm: fx.GraphModule, plan: Plan, optimizer: str, synthesizer: Synthesizer, flow: nx.DiGraph[str]
) -> Budget:
    """What training an annotated graph takes, in full precision of its own, cut by the plan and not.

    The loss is taken to need as much as the outputs, twice, and gradients to be `None` before a step.
    O(V log V) beside `early_release`.
    """
    timeline = Timeline(gm, flow)
    parts = {name: p.numel() * p.element_size() for name, p in gm.named_parameters()}
    gradients = timeline.parameter_bytes(timeline.sizes)
    state = OPTIMIZERS[optimizer] * gradients
    buffers = sum(each.numel() * each.element_size() for each in gm.buffers())
    always = sum(parts.values()) + buffers + state + timeline.inputs
    outputs = sum(moment.own for moment in timeline.moments if moment.output)
    every = range(len(timeline.moments))
    largest = max(timeline.sizes.values(), default=0)
    least = always + gradients + outputs + (2 * largest if optimizer == "adam" else 0)
    segments, checkpointed = _checkpointing(timeline)
    released, extra = early_release(gm, plan, flow, timeline, synthesizer)
    return Budget(
        weights=sum(parts.values()),
        buffers=buffers,
        gradients=gradients,
        optimizer=state,
        inputs=timeline.inputs,
        outputs=outputs,
        saved=sum(moment.saved for moment in timeline.moments),
        pass_peak=timeline.peak(every, gradients=False),
        largest=largest,
        least=least,
        batch=_batch(gm),
        backprop=Method("backprop", max(always + timeline.peak(every) + 2 * outputs, least), 0.0),
        checkpointing=Method(
            f"checkpointing, {counted(len(segments), 'segment')}",
            max(always + checkpointed + 2 * outputs, least),
            _again(flow, timeline, segments),
        ),
        ours=Method(
            f"this plan, {counted(len(plan), 'stage')}", max(always + released + 2 * outputs, least), extra
        ),
    )


def _batch(gm: fx.GraphModule) -> int:
    """The batch size of the example; 0 if no input has one."""
    values = [value_of(node) for node in gm.graph.nodes if node.op == "placeholder"]
    return next((value.shape[value.batch_dim] for value in values if value.shape and value.batch_dim >= 0), 0)


def _checkpointing(timeline: Timeline) -> tuple[list[range], int]:
    """The segments among some ways to cut the order of nodes that hold least memory, and how much."""
    candidates = [_segments(timeline, count) for count in _counts(len(timeline.moments))]
    return min(((each, _recomputed(timeline, each)) for each in candidates), key=lambda pair: pair[1])


def _counts(nodes: int) -> Iterator[int]:
    """How many segments to try: 2, 3, 4, 6, 8 and so on, as far as there are nodes."""
    yield min(nodes, 2)
    for power in range(1, nodes.bit_length() - 1):
        yield from (3 * 2 ** (power - 1), 2 ** (power + 1))


def _segments(timeline: Timeline, count: int) -> list[range]:
    """About so many segments that save about as much each, cut where least is sent on."""
    nodes = len(timeline.moments)
    saved = list(accumulate(moment.saved for moment in timeline.moments))
    crossing, whole = timeline.crossing(), timeline.whole()
    cuts: set[int] = set()
    for number in range(1, count):
        window = [bisect_left(saved, (number + part) / count * saved[-1]) for part in (-0.5, 0.5)]
        inside = range(window[0], min(max(window[1], window[0] + 1), nodes - 1))
        places = [place for place in inside if whole[place]]
        if places:
            cuts.add(min(places, key=crossing.__getitem__) + 1)
    return [range(start, end) for start, end in pairwise([0, *sorted(cuts), nodes])]


def _recomputed(timeline: Timeline, segments: list[range]) -> int:
    """The most that is held if only what is sent between segments is kept, and the rest computed again."""
    starts = [segment.start for segment in segments]
    kept = [0] * len(segments)
    for at, moment in enumerate(timeline.moments):
        first = bisect_left(starts, at + 1)
        if first < len(starts) and starts[first] <= moment.until:
            kept[first] += moment.own
    later = [sum(timeline.moments[at].gradients for at in segment) for segment in segments]
    after = [total - own for total, own in zip(list(accumulate(later[::-1]))[::-1], later, strict=True)]
    peaks = (timeline.peak(segment) for segment in segments)
    return max(map(sum, zip(accumulate(kept), peaks, after, strict=True)))


def _again(flow: nx.DiGraph[str], timeline: Timeline, segments: list[range]) -> float:
    """What it costs to run all segments but the last forward again, as a part of forward and backward."""
    facts = [flow.nodes[moment.name] for moment in timeline.moments]
    total = sum(each["flops"] + each["backward_flops"] for each in facts)
    again = sum(each["flops"] for each in facts[: segments[-1].start])
    return again / total if total else 0.0
