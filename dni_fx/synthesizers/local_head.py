"""The gradient of a loss of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner
from dni_fx.synthesizers.heads import Head, Headed, head_for
from passes import BoundarySpec, SpecError


@dataclass(frozen=True)
class LocalHead(Headed):
    """An auxiliary head learns the task from the value; the gradient of its loss is the guess.

    The true gradient teaches it nothing, unless `regress` is above 0: then the head is regressed on it
    besides, with that weight.

    Sources:
        Belilovsky et al. 2020, https://arxiv.org/abs/1901.08164 (decoupled greedy learning).
    """

    name = "local-head"

    regress: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.regress >= 0:
            raise SpecError(f"local-head.regress is 0 or more, not {self.regress}.")

    @override
    def build(self, spec: BoundarySpec) -> LocalHeadLearner:
        return LocalHeadLearner(head_for(self, spec), self.regress)


class LocalHeadLearner(Learner):
    """Learns its head's task while it guesses."""

    def __init__(self, head: Head, regress: float) -> None:
        super().__init__()
        self.head = head
        self.pace = head.pace
        self.regress = regress
        self.self_taught = not regress

    def fits(self, values: tuple[Tensor, ...], context: Tensor) -> bool:
        """Whether the context has labels for these values."""
        return self.head.fits(tuple(self.head.layout.join(values).shape[:-1]), context)

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        assert context is not None
        learns = torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = tuple(value.detach().requires_grad_() for value in values)
            loss = self.head.loss(self.head.layout.join(leaves), context)
            if learns and self.regress:
                return Guess(
                    torch.autograd.grad(loss, leaves, create_graph=True), loss / self.regress, natural=True
                )
            # One backward pass for both, after which nothing of the head's forward pass is kept.
            found = torch.autograd.grad(loss, [*leaves, *self.parameters()] if learns else leaves)
        own, learned = found[: len(leaves)], found[len(leaves) :]
        return Guess(own, natural=True, learned=learned if learns else None)
