"""The gradient of a task loss, taught by the true gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner
from dni_fx.synthesizers.heads import Head, Headed, head_for
from passes import BoundarySpec


@dataclass(frozen=True)
class Critic(Headed):
    """The gradient of a head's task loss is the guess, and is regressed on the true gradient.

    The head never learns the task itself: its scores are whatever makes their loss fall in the
    direction in which the true loss falls.

    Sources:
        Czarnecki et al. 2017, https://arxiv.org/abs/1706.04859 (critics); Miyato et al. 2017 (virtual
        forward and backward networks).
    """

    name = "critic"

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return HeadLearner(head_for(self, spec))


class HeadLearner(Learner):
    """Guesses the gradient of its head's loss, or of what stands for one without labels."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head
        self.pace = head.pace

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        learns = torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = tuple(value.detach().requires_grad_() for value in values)
            inside = self.head.layout.join(leaves)
            loss = self.head.free_energy(inside) if context is None else self.head.loss(inside, context)
            return Guess(torch.autograd.grad(loss, leaves, create_graph=learns), natural=True)
