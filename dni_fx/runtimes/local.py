"""Every stage updates as soon as it has run forward."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.calls import call_of
from dni_fx.cutting import CutGraph
from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.dni import DNI
from dni_fx.errors import StageError
from dni_fx.gradients import added
from dni_fx.program import signature_of
from dni_fx.runtimes.base import Outcome, Runtime, Worker
from dni_fx.runtimes.updates import Recipe
from dni_fx.segments import Leaving, Segment, segments
from dni_fx.stage import Stage, detached
from dni_fx.step import Synthesis
from passes.switches import switches_kept


@dataclass(frozen=True)
class Local(Runtime):
    """A stage runs forward, gets its synthetic gradient, runs backward and steps before the next one runs.

    Its gradients are freed with its step, so no more than those of one stage are there at any time. Its
    synthesizers learn when the stages that read from it have run. A parameter that several stages
    read steps after the last of them. A stage that makes an output of the model waits for the loss. Stages
    with a boundary between them that passes the true gradient (while it warms up, while others have
    their turn, or because its guard has locked it) run backward and step together.
    """

    name = "local"

    @override
    def start(self, cut: Decoupled, recipe: Recipe) -> Worker:
        return _Worker(cut, recipe)


class _Worker(Worker):
    @override
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        self._refuse_mixing()
        cutting = cutting_of(self.cut)
        call = call_of(signature_of(self.cut), args, kwargs)
        with self.updates.autocast():
            graph = cutting.settled(self.cut, call)  # a stage that has stepped cannot be taken back
        if not graph.road.split.in_order:
            raise StageError(
                "the local runtime runs stage after stage, and by this plan that would draw random "
                "numbers or write to memory in another order than the model does. Use the backprop "
                "runtime, or a plan that a policy has made."
            )
        self._prepare(graph.road.stages)
        with self.updates.batch(), switches_kept(), cutting.step.telling_loss():
            with self.updates.autocast():
                cutting.begin(call, context)
            values = dict(zip(graph.road.split.inputs, call.leaves, strict=True))
            return _Pass(self, graph, values).run(target)

    def update(self, stage: Stage) -> None:
        """Step the parameters whose last reader this stage is; nobody reads their gradients any more."""
        self.updates.step(_name(stage.index))

    def update_learners(self) -> None:
        """Step the synthesizers that have no optimizer of their own."""
        for name, dni in dnis(self.cut).items():
            if dni.optimizer is None:
                self.updates.step(f"dni.{name}")

    def _prepare(self, stages: Sequence[Stage]) -> None:
        if self.updates.optimizers:
            return
        owner: dict[nn.Parameter, int] = {}
        for stage in stages:
            owner |= {parameter: stage.index for parameter in stage.parameters() if parameter.requires_grad}
        for index in sorted(set(owner.values())):
            self.updates.own(_name(index), [parameter for parameter, at in owner.items() if at == index])
        for name, dni in dnis(self.cut).items():
            if dni.optimizer is None:
                self.updates.own(f"dni.{name}", list(dni.learner.parameters()))

    def _refuse_mixing(self) -> None:
        locked = [name for name, dni in dnis(self.cut).items() if dni.synthesizer.exact or dni.interface.mix]
        if locked:
            raise StageError(
                "the local runtime updates a stage before the true gradient is there, and these boundaries "
                f"send it up: {', '.join(locked)}. Use the backprop runtime, or mix=0 and a synthesizer that "
                "learns; warmup=N sends true gradients for a while."
            )


@dataclass
class _Held:
    """A segment that waits for the loss: what it has read, and what goes up at what it has sent."""

    segment: Segment
    leaves: dict[str, Tensor]
    sent: list[Tensor] = field(default_factory=list[Tensor])
    upward: list[Tensor] = field(default_factory=list[Tensor])


class _Pass:
    """One step through all stages."""

    def __init__(self, worker: _Worker, graph: CutGraph, values: dict[str, Any]) -> None:
        self.worker = worker
        self.graph = graph
        self.values = values
        self.dnis = dnis(worker.cut)
        self.consumers: dict[str, set[int]] = {
            spec.name: set(spec.consumers) for spec in graph.marked.specs if not self.dnis[spec.name].mix
        }
        self.parts = {spec.name: spec.names for spec in graph.marked.specs}
        self.crossing = {part for parts in self.parts.values() for part in parts}
        self.guesses: dict[str, Synthesis] = {}
        self.arrived: dict[str, Tensor | None] = {}
        self.held: list[_Held] = []

    def run(self, target: Any) -> Outcome:
        for segment in segments(self.graph.road, self.dnis):
            self._forward(segment)
        outputs = pytree.tree_unflatten(self.graph.road.result(self.values), self.graph.capture.out_spec)
        with self.worker.updates.autocast():
            loss = self.worker.recipe.loss(outputs, target)
        for dni in self.dnis.values():
            dni.hear(loss)
        sent = [value for held in self.held for value in held.sent]
        upward = [up for held in self.held for up in held.upward]
        self.worker.updates.backward([loss, *sent], [None, *upward])
        for held in self.held:
            self._finish(held)
        for dni in self.dnis.values():
            dni.step()  # those that had to hear the loss first
        self.worker.update_learners()
        return Outcome(loss.detach(), outputs)

    def _forward(self, segment: Segment) -> None:
        values = dict(self.values)
        held = _Held(segment, {})
        for name in segment.read_live(values):
            if name in self.crossing:
                values[name] = held.leaves[name] = values[name].detach().requires_grad_()
        leaving = Leaving()
        with self.worker.updates.autocast():
            segment.run(values, self.dnis, leaving)
            held.leaves |= leaving.below
            for name, sent in leaving.values.items():
                self.guesses[name], upward = self.dnis[name].guess_up(sent)
                for value, up in zip(sent, upward, strict=True):
                    held.sent.append(value)
                    held.upward.append(torch.zeros_like(value) if up is None else up)
        written = {name: value for name, value in values.items() if name not in self.values}
        crossing = {
            name: written[name].detach().requires_grad_() for name in leaving.below if name in written
        }
        if segment.is_releasable:
            self.values |= {name: detached(value) for name, value in written.items()} | crossing
            torch.autograd.backward(held.sent, held.upward)
            self._finish(held)
        else:
            self.values |= written | crossing
            self.held.append(held)
        for name in itertools.chain.from_iterable(segment.drops):
            self.values.pop(name, None)

    def _finish(self, held: _Held) -> None:
        """Update stages that have their gradients; teach the synthesizers whose readers have all answered."""
        stages = held.segment.stages
        for stage in stages:
            self.worker.update(stage)
            for name in stage.crossings:
                if name not in self.consumers:  # it has learned in the backward pass of the segment
                    self._step(self.dnis[name])
        here = {stage.index for stage in stages}
        for name in [name for name, readers in self.consumers.items() if readers & here]:
            for part in self.parts[name]:
                gradient = held.leaves[part].grad if part in held.leaves else None
                self.arrived[part] = added([self.arrived.get(part), gradient])
            self.consumers[name] -= here
            if not self.consumers[name]:
                true = tuple(self.arrived.pop(part) for part in self.parts[name])
                self.dnis[name].regress(self.guesses.pop(name), true)
                self._step(self.dnis[name])

    def _step(self, dni: DNI) -> None:
        """Update a synthesizer, unless it has still to learn from the loss by the weights it guessed by."""
        if not dni.waits_for_loss:
            dni.step()


def _name(index: int) -> str:
    """What the optimizer of a stage is called."""
    return f"stage {index}"
