"""One backward pass through all stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from dni_fx.decoupled import Decoupled, cutting_of, dnis, own_parameters
from dni_fx.runtimes.base import Outcome, Runtime, Worker
from dni_fx.runtimes.updates import Recipe


@dataclass(frozen=True)
class Backprop(Runtime):
    """`loss.backward()` through the DNI nodes, then one step of one optimizer: the plain loop."""

    name = "backprop"

    @override
    def start(self, cut: Decoupled, recipe: Recipe) -> Worker:
        return _Worker(cut, recipe)


class _Worker(Worker):
    def __init__(self, cut: Decoupled, recipe: Recipe) -> None:
        super().__init__(cut, recipe)
        self.updates.own("model", own_parameters(cut))

    @override
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        updates = self.updates
        with updates.batch():
            with updates.autocast():
                with cutting_of(self.cut).step.telling_loss():
                    outputs = self.cut(*args, dni_context=context, **kwargs)
                loss = self.recipe.loss(outputs, target)
            for dni in dnis(self.cut).values():
                dni.hear(loss)
            updates.backward([loss], [None])
            updates.step("model")
        return Outcome(loss.detach(), outputs)
