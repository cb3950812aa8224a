"""A guess of the loss, whose gradient is the guess of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from dni_fx.synthesizers.layers import hidden_layers, last_layer
from dni_fx.synthesizers.layout import Context, Layout, normalized
from passes import BoundarySpec, SpecError


@dataclass(frozen=True)
class Sobolev(Synthesizer):
    """A network that predicts the loss from the value and the labels, if there are any.

    It learns from the loss itself and from the true gradient, of which its own is the guess. `depth` hidden
    layers of `hidden` units (0 is as wide as the value, within 64 to 1024) read each token or pixel.

    Sources:
        Czarnecki et al. 2017, https://arxiv.org/abs/1706.04859 (Sobolev training).
    """

    name = "sobolev"
    needs: ClassVar[str] = "loss"

    hidden: int = 0
    depth: int = 1

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise SpecError(f"sobolev.hidden is 1 or more, or 0 for as wide as the value, not {self.hidden}.")
        if self.depth < 1:
            raise SpecError(f"sobolev.depth is 1 or more, not {self.depth}.")

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return _Sobolev(Layout.of(self, spec), self)


class _Sobolev(Learner):
    def __init__(self, layout: Layout, choice: Sobolev) -> None:
        super().__init__()
        self.layout = layout
        hidden = choice.hidden or layout.hidden
        self.hidden = hidden_layers(layout.features, hidden, choice.depth, layout.dtype)
        self.context = Context(layout, hidden)
        self.last = last_layer(hidden, 1, layout.dtype)

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        learns = torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = tuple(value.detach().requires_grad_() for value in values)
            loss = self._loss(self.layout.join(leaves), context)
            return Guess(
                torch.autograd.grad(loss, leaves, create_graph=learns),
                natural=True,
                loss=loss if learns else None,
            )

    def _loss(self, inside: Tensor, context: Tensor | None) -> Tensor:
        """The mean over samples and positions of what each of them adds to the loss."""
        inside = normalized(inside.to(self.last.weight.dtype), self.layout.widths)
        for position, layer in enumerate(self.hidden):
            inside = layer(inside)
            inside = inside if position else self.context(inside, context)
            inside = F.gelu(F.layer_norm(inside, inside.shape[-1:]))
        return self.last(inside).mean()
