"""A guess by a small network of fully connected layers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from dni_fx.synthesizers.layout import Context, Layout, normalized
from passes import BoundarySpec, SpecError

_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True)
class MLP(Synthesizer):
    """`depth` hidden layers of `hidden` units from the features to the gradient's, the same at every token.

    `hidden=0` is as wide as the value, within 64 to 1024. Each hidden layer has a layer norm without
    parameters before its activation: unlike batch norm, it does not tie the samples together.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, supplement, "Common details".
    """

    name = "mlp"

    hidden: int = 0
    depth: int = 1
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise SpecError(f"mlp.hidden is 1 or more, or 0 for as wide as the value, not {self.hidden}.")
        if self.depth < 1:
            raise SpecError(f"mlp.depth is 1 or more, not {self.depth}. Use linear for no hidden layer.")
        if self.activation not in _ACTIVATIONS:
            raise SpecError(f"mlp.activation is {' or '.join(_ACTIVATIONS)}, not {self.activation!r}.")

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return _MLP(Layout.of(self, spec), self)


class _MLP(Learner):
    def __init__(self, layout: Layout, choice: MLP) -> None:
        super().__init__()
        self.layout = layout
        self.activation = _ACTIVATIONS[choice.activation]
        hidden = choice.hidden or min(max(layout.features, 64), 1024)
        widths = [layout.features, *[hidden] * choice.depth]
        self.hidden = nn.ModuleList(
            nn.Linear(one, other, dtype=layout.dtype, device="cpu")
            for one, other in itertools.pairwise(widths)
        )
        self.context = Context(layout, hidden)
        self.last = nn.Linear(hidden, layout.features, dtype=layout.dtype, device="cpu")
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        (value,) = values
        inside = normalized(self.layout.to_features_last(value).to(self.last.weight.dtype))
        for position, layer in enumerate(self.hidden):
            inside = layer(inside)
            inside = inside if position else self.context(inside, context)
            inside = self.activation(F.layer_norm(inside, inside.shape[-1:]))
        return Guess((self.layout.from_features_last(self.last(inside)).to(value.dtype),))
