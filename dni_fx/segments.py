"""Stages that wait for one another in this step.

Where a boundary passes the true gradient, whole or in part, the stage that made the value runs backward when
its readers have. Between boundaries that send synthetic gradients alone, stages form segments that
need not wait for one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dni_fx.dni import DNI
from dni_fx.randomness import NO_STREAMS, Streams
from dni_fx.stage import Road, Stage, carries_gradient, moved


@dataclass(frozen=True)
class Segment:
    """Neighboring stages that run backward together, and what is read for the last time in each.

    `places` are the devices of those stages, by their index, that have one: values are moved there.
    `computes` is what runs a stage on what it reads.
    """

    stages: tuple[Stage, ...]
    drops: tuple[tuple[str, ...], ...]
    places: Mapping[int, torch.device] = field(default_factory=dict[int, torch.device])
    computes: Callable[[Stage, list[Any]], dict[str, Any]] = Stage.run

    @property
    def is_releasable(self) -> bool:
        """Whether its gradients depend on nothing but what its boundaries send: no output of the model."""
        return bool(self.stages[-1].crossings) and not any(stage.has_outputs for stage in self.stages)

    @property
    def may_reenter(self) -> bool:
        """Whether there may be a reentrant checkpoint in it."""
        return any(stage.may_reenter for stage in self.stages)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that its stages read and that want a gradient, each once."""
        found = dict.fromkeys(p for stage in self.stages for p in stage.parameters())
        return [parameter for parameter in found if parameter.requires_grad]

    def may_run_early(self, values: Mapping[str, Any]) -> bool:
        """Whether it may run backward before the rest of the model runs forward.

        What it writes to a tensor of the caller, who wants a gradient for it, is part of the caller's graph.
        """
        return self.is_releasable and not any(stage.writes_to_callers(values) for stage in self.stages)

    def read_live(self, values: Mapping[str, Any]) -> list[str]:
        """Names of what it reads from other segments, or from the caller, that gradients flow to."""
        names = dict.fromkeys(name for stage in self.stages for name in stage.code.part.reads)
        return [name for name in names if name in values and carries_gradient(values[name])]

    def run(
        self,
        values: dict[str, Any],
        dnis: Mapping[str, DNI],
        leaving: Leaving | None = None,
        streams: Streams = NO_STREAMS,
    ) -> None:
        """Run its stages forward on values, to which what they write is added.

        What goes through cut boundaries is put into `leaving`, and goes on as a leaf; without it, boundaries
        are nodes of one graph.
        """
        for stage, drops in zip(self.stages, self.drops, strict=True):
            place = self.places.get(stage.index)
            with streams.of(stage.index):
                written = self.computes(stage, stage.reads(values, place))
            for name, parts in stage.crossings.items():
                sent = tuple(moved(written[part], place) for part in parts)
                if leaving is None or dnis[name].mix != 0:
                    sent = dnis[name].send(sent)
                    if leaving is not None and leaving.keeps:
                        leaving.passed[name] = sent
                else:
                    leaving.values[name] = sent
                    sent = tuple(value.detach().requires_grad_() for value in sent)
                    leaving.below |= zip(parts, sent, strict=True)
                written |= zip(parts, sent, strict=True)
            values |= written
            for name in drops:
                values.pop(name, None)


@dataclass
class Leaving:
    """What a segment sends: by boundary, the values with their history, and by name, each as a leaf.

    If it `keeps` them, `passed` are those that went through boundaries that pass the true gradient.
    """

    values: dict[str, tuple[Tensor, ...]] = field(default_factory=dict[str, tuple[Tensor, ...]])
    below: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    keeps: bool = False
    passed: dict[str, tuple[Tensor, ...]] = field(default_factory=dict[str, tuple[Tensor, ...]])


def segments(
    road: Road,
    dnis: Mapping[str, DNI],
    places: Mapping[int, torch.device] | None = None,
    within: range | None = None,
) -> Iterator[Segment]:
    """The stages of a road in order, joined where a boundary between them passes a true gradient now.

    Of those `within` alone, if only these are run here: what goes to others joins nothing.
    """
    last = road.last_readers
    within = range(len(road.stages)) if within is None else within
    start, reach = within.start, within.start
    for stage in road.stages[within.start : within.stop]:
        locked = [last[name] for name in stage.crossings if name in last and dnis[name].mix != 0]
        reach = min(max(reach, stage.index, *locked), within.stop - 1)
        if reach == stage.index:
            yield Segment(road.stages[start : reach + 1], road.drops[start : reach + 1], places or {})
            start = reach + 1
