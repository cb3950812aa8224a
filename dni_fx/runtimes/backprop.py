"""One backward pass through all stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.runtimes.base import Outcome, Runtime, Worker
from dni_fx.runtimes.recipe import Recipe
from passes.boundary import CONTAINER


@dataclass(frozen=True)
class Backprop(Runtime):
    """`loss.backward()` through the DNI nodes, then one step of one optimizer: the plain loop."""

    name = "backprop"

    @override
    def start(self, cut: Decoupled, recipe: Recipe) -> Worker:
        return _Worker(cut, recipe)


class _Worker(Worker):
    @override
    def prepare(self) -> None:
        own = {
            name: parameter
            for name, parameter in self.cut.named_parameters()
            if not name.startswith(f"{CONTAINER}.")
        }
        self.updates.own("model", own)

    @override
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        updates = self.updates
        with updates.batch():
            with updates.autocast():
                with cutting_of(self.cut).step.telling_loss():
                    outputs = self.cut(*args, dni_context=context, **kwargs)
                loss = self.recipe.loss_of(outputs, target)
            for dni in dnis(self.cut).values():
                dni.hear(loss)
            self.own_learners()
            updates.backward([loss], [None])
            for name in updates.owned:
                updates.step(name)
        return Outcome(loss.detach(), outputs)
