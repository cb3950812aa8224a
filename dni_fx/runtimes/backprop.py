"""One backward pass through all stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from dni_fx.decoupled import Decoupled, cutting_of, dnis, own_parameters
from dni_fx.runtimes.base import Loss, OptimizerFactory, Outcome, Runtime, Worker


@dataclass(frozen=True)
class Backprop(Runtime):
    """`loss.backward()` through the DNI nodes, then one step of one optimizer: the plain loop."""

    name = "backprop"

    @override
    def start(self, cut: Decoupled, loss: Loss, optimizer: OptimizerFactory) -> Worker:
        return _Worker(cut, loss, optimizer)


class _Worker(Worker):
    def __init__(self, cut: Decoupled, loss: Loss, optimizer: OptimizerFactory) -> None:
        self.cut = cut
        self.loss = loss
        self.optimizers = [optimizer(own_parameters(cut))]

    @override
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        with cutting_of(self.cut).step.telling_loss():
            outputs = self.cut(*args, dni_context=context, **kwargs)
        loss = self.loss(outputs, target)
        for dni in dnis(self.cut).values():
            dni.hear(loss)
        loss.backward()
        optimizer.step()
        return Outcome(loss.detach(), outputs)
