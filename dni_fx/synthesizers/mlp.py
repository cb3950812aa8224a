"""A guess by a small network of fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from dni_fx.synthesizers.layers import hidden_layers, last_layer
from dni_fx.synthesizers.layout import Context, Layout, normalized
from passes import BoundarySpec, SpecError

_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
_NORMS = ("layer", "none")


@dataclass(frozen=True)
class MLP(Synthesizer):
    """`depth` hidden layers of `hidden` units from the features to the gradient's, the same at every token.

    It reads the features of all values. `hidden=0` is as wide as they are, within 64 to 1024. With
    `norm=layer` each hidden layer has a layer norm without parameters before its activation: unlike batch
    norm, it does not tie the samples together.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, supplement, "Common details".
    """

    name = "mlp"

    hidden: int = 0
    depth: int = 1
    activation: str = "relu"
    norm: str = "layer"

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise SpecError(f"mlp.hidden is 1 or more, or 0 for as wide as the value, not {self.hidden}.")
        if self.depth < 1:
            raise SpecError(f"mlp.depth is 1 or more, not {self.depth}. Use linear for no hidden layer.")
        if self.activation not in _ACTIVATIONS:
            raise SpecError(f"mlp.activation is {' or '.join(_ACTIVATIONS)}, not {self.activation!r}.")
        if self.norm not in _NORMS:
            raise SpecError(f"mlp.norm is {' or '.join(_NORMS)}, not {self.norm!r}.")

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return _MLP(Layout.of(self, spec), self)


class _MLP(Learner):
    def __init__(self, layout: Layout, choice: MLP) -> None:
        super().__init__()
        self.layout = layout
        self.activation = _ACTIVATIONS[choice.activation]
        self.norms = choice.norm == "layer"
        hidden = choice.hidden or layout.hidden
        self.hidden = hidden_layers(layout.features, hidden, choice.depth, layout.dtype)
        self.context = Context(layout, hidden)
        self.last = last_layer(hidden, layout.features, layout.dtype)

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        inside = normalized(self.layout.join(values).to(self.last.weight.dtype), self.layout.widths)
        for position, layer in enumerate(self.hidden):
            inside = layer(inside)
            inside = inside if position else self.context(inside, context)
            inside = F.layer_norm(inside, inside.shape[-1:]) if self.norms else inside
            inside = self.activation(inside)
        return Guess(self.layout.split(self.last(inside), values))
