"""Every stage updates as soon as it has run forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from dni_fx.calls import call_of
from dni_fx.cutting import CutGraph
from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.dni import DNI
from dni_fx.errors import StageError
from dni_fx.program import signature_of
from dni_fx.runtimes.base import Loss, OptimizerFactory, Outcome, Runtime, Worker
from dni_fx.stage import Stage, carries_gradient, detached
from dni_fx.step import Synthesis
from passes.switches import switches_kept


@dataclass(frozen=True)
class Local(Runtime):
    """A stage runs forward, gets its synthetic gradient, runs backward and steps before the next one runs.

    Its synthesizers learn when the stages that read from it have run. A parameter that several stages
    read steps after the last of them. A stage that makes an output of the model waits for the loss. While
    synthesizers warm up, all stages are locked: they step on true gradients, after the loss.
    """

    name = "local"

    @override
    def start(self, cut: Decoupled, loss: Loss, optimizer: OptimizerFactory) -> Worker:
        return _Worker(cut, loss, optimizer)


class _Worker(Worker):
    def __init__(self, cut: Decoupled, loss: Loss, optimizer: OptimizerFactory) -> None:
        self.cut = cut
        self.loss = loss
        self.factory = optimizer
        self.optimizers: list[Optimizer] = []
        self._of_stage: dict[int, Optimizer] = {}

    @override
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        cutting = cutting_of(self.cut)
        call = call_of(signature_of(self.cut), args, kwargs)
        graph = cutting.settled(self.cut, call)  # a stage that has stepped cannot be taken back
        self._refuse_mixing()
        if not graph.road.split.in_order:
            raise StageError(
                "the local runtime runs stage after stage, and by this plan that would draw random "
                "numbers or write to memory in another order than the model does. Use the backprop "
                "runtime, or a plan that a policy has made."
            )
        self._prepare(graph.road.stages)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if any(dni.mix for dni in dnis(self.cut).values()):
            return self._locked(args, kwargs, target, context)
        cutting.begin(call, context)
        values = dict(zip(graph.road.split.inputs, call.leaves, strict=True))
        with switches_kept():
            return _Pass(self, graph, values).run(target)

    def update(self, stage: Stage) -> None:
        """Step the parameters whose last reader this stage is."""
        if stage.index in self._of_stage:
            self._of_stage[stage.index].step()

    def _locked(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        outputs = self.cut(*args, dni_context=context, **kwargs)
        loss = self.loss(outputs, target)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return Outcome(loss.detach(), outputs)

    def _prepare(self, stages: Sequence[Stage]) -> None:
        if self._of_stage:
            return
        owner: dict[nn.Parameter, int] = {}
        for stage in stages:
            owner |= {parameter: stage.index for parameter in stage.parameters() if parameter.requires_grad}
        for index in sorted(set(owner.values())):
            mine = [parameter for parameter, at in owner.items() if at == index]
            self._of_stage[index] = self.factory(mine)
        self.optimizers = list(self._of_stage.values())

    def _refuse_mixing(self) -> None:
        locked = [name for name, dni in dnis(self.cut).items() if dni.synthesizer.exact or dni.interface.mix]
        if locked:
            raise StageError(
                "the local runtime updates a stage before the true gradient is there, and these boundaries "
                f"send it up: {', '.join(locked)}. Use the backprop runtime, or mix=0 and a synthesizer that "
                "learns; warmup=N sends true gradients for a while."
            )


class _Pass:
    """One step through all stages."""

    def __init__(self, worker: _Worker, graph: CutGraph, values: dict[str, Any]) -> None:
        self.worker = worker
        self.graph = graph
        self.values = values
        self.dnis = dnis(worker.cut)
        self.consumers = {spec.name: set(spec.consumers) for spec in graph.marked.specs}
        self.guesses: dict[str, Synthesis] = {}
        self.arrived: dict[str, Tensor | None] = {}
        self.held: list[tuple[Stage, dict[str, Tensor], list[Tensor], list[Tensor | None]]] = []

    def run(self, target: Any) -> Outcome:
        for stage, drops in zip(self.graph.road.stages, self.graph.road.drops, strict=True):
            self._forward(stage)
            for name in drops:
                self.values.pop(name, None)
        outputs = pytree.tree_unflatten(self.graph.road.result(self.values), self.graph.capture.out_spec)
        loss = self.worker.loss(outputs, target)
        heads = [
            (value, up)
            for _, _, leaving, upward in self.held
            for value, up in zip(leaving, upward, strict=True)
        ]
        torch.autograd.backward([loss, *(v for v, _ in heads)], [None, *(up for _, up in heads)])
        for stage, leaves, _, _ in self.held:
            self._finish(stage, leaves)
        return Outcome(loss.detach(), outputs)

    def _forward(self, stage: Stage) -> None:
        reads = stage.reads(self.values)
        leaves: dict[str, Tensor] = {}
        for i, (name, value) in enumerate(zip(stage.code.part.reads, reads, strict=True)):
            if name in self.dnis and carries_gradient(self.values.get(name)):
                reads[i] = leaves[name] = value.detach().requires_grad_()
        written = stage.run(reads)
        leaving = [written[name] for name in stage.crossings]
        upward = [self._guess(name, value) for name, value in zip(stage.crossings, leaving, strict=True)]
        if stage.is_releasable:
            self.values |= {name: detached(value) for name, value in written.items()}
            torch.autograd.backward(leaving, upward)
            self._finish(stage, leaves)
        else:
            crossing = {name: written[name].detach() for name in stage.crossings}
            self.values |= written | crossing
            self.held.append((stage, leaves, leaving, upward))
        for name in stage.crossings:
            self.values[name].requires_grad_()

    def _guess(self, name: str, value: Tensor) -> Tensor | None:
        dni: DNI = self.dnis[name]
        self.guesses[name] = dni.synthesize((value.detach(),))
        return dni.upward(self.guesses[name], (value,), (None,), 0)[0]

    def _finish(self, stage: Stage, leaves: dict[str, Tensor]) -> None:
        """Update a stage that has its gradients; teach the synthesizers whose readers have all answered."""
        self.worker.update(stage)
        for name in [name for name, readers in self.consumers.items() if stage.index in readers]:
            gradient = leaves[name].grad if name in leaves else None
            before = self.arrived.get(name)
            self.arrived[name] = (
                gradient if before is None else before if gradient is None else before + gradient
            )
            self.consumers[name].discard(stage.index)
            if not self.consumers[name]:
                self.dnis[name].regress(self.guesses.pop(name), (self.arrived.pop(name),))
                self.dnis[name].step()
