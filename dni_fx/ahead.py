"""The auxiliary task of carried state: to know now what will be guessed one step later."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from dni_fx.learning import Adam
from dni_fx.synthesizers import Synthesizer
from passes import BoundarySpec


class Ahead(nn.Module):
    """From the state that a step is given, tells the synthetic gradient of the state that it returns.

    How far it is off is a loss of the model as well: its gradient joins what arrives at the state, so
    state comes to hold what the steps after the next will need.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.2 (DNI + Aux).

    Raises:
        SynthesizerError: the synthesizer has no weights.
    """

    def __init__(self, spec: BoundarySpec, synthesizer: Synthesizer, interface: Interface) -> None:
        super().__init__()
        self.learner = synthesizer.build(spec)
        if not any(True for _ in self.learner.parameters()):
            raise SynthesizerError(
                f"{synthesizer} at {spec.name} has no weights to learn an auxiliary task with: choose aux=0 "
                "there, or linear."
            )
        self.optimizer = Adam(self.learner.parameters(), interface)
        self.error = 0.0

    def compare(
        self, state: tuple[Tensor, ...], guessed: Sequence[Tensor], interface: Interface
    ) -> Sequence[Tensor]:
        """Learn what was guessed one step after this state; returns the gradients of the loss at the state.

        `guessed` are gradients in units of the boundary. The loss is the mean of the squared differences,
        `interface.aux` times.
        """
        with torch.enable_grad():
            leaves = tuple(each.detach().requires_grad_() for each in state)
            told = self.learner(leaves, None).gradients
            pairs = list(zip(told, guessed, strict=True))
            count = max(sum(each.numel() for each in told), 1)
            error = torch.stack([(a - b.detach().to(a)).square().sum() for a, b in pairs]).sum() / count
            asked = [*leaves, *self.learner.parameters()]
            found = list[Tensor | None](torch.autograd.grad(error * interface.aux, asked, allow_unused=True))
        self.error = float(error.detach())
        if all(bool(each.isfinite().all()) for each in found if each is not None):
            self.optimizer.settings = interface
            self.optimizer.collect(found[len(leaves) :])
        return [
            torch.zeros_like(leaf) if each is None else each
            for leaf, each in zip(leaves, found, strict=False)
        ]

    def step(self) -> None:
        """Take what was learned since the last time."""
        self.optimizer.step(list(self.learner.parameters()), self.learner.pace)
