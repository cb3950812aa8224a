"""A linear guess."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from dni_fx.synthesizers.layers import last_layer
from dni_fx.synthesizers.layout import Context, Layout, normalized
from passes import BoundarySpec, SpecError

NORMS = ("layer", "none")


@dataclass(frozen=True)
class Linear(Synthesizer):
    """One affine map from the features to the gradient's, the same at every token or pixel.

    It reads the features of all values through a layer norm without parameters, or as they are with
    `norm=none`, which suits values that are bounded, like the state of a recurrent net. In an image it is a
    1 by 1 convolution. It holds the square of the number of features in weights.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.1.
    """

    name = "linear"

    norm: str = "layer"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise SpecError(f"linear.norm is {' or '.join(NORMS)}, not {self.norm!r}.")

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return _Linear(Layout.of(self, spec), self.norm == "layer")


class _Linear(Learner):
    def __init__(self, layout: Layout, norms: bool) -> None:
        super().__init__()
        self.layout = layout
        self.norms = norms
        self.layer = last_layer(layout.features, layout.features, layout.dtype)
        self.context = Context(layout, layout.features, bound=0)

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        inside = self.layout.join(values).to(self.layer.weight.dtype)
        inside = normalized(inside, self.layout.widths) if self.norms else inside
        return Guess(self.layout.split(self.context(self.layer(inside), context), values))
