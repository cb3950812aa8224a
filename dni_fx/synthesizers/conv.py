"""A guess by a small convolutional network."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers.axes import is_image
from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from dni_fx.synthesizers.layout import Context, Layout
from passes import BoundarySpec, SpecError

_LAYERS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


@dataclass(frozen=True)
class Conv(Synthesizer):
    """`depth` hidden convolutions of `channels` channels, for values `(batch, channels, *space)`.

    It reads the channels of all values, which are of one size. `channels=0` is as many as they have, within
    16 to 128. Labels act as one-hot planes beside the channels, except that no zero padding cuts the planes
    off at the borders. The input and each hidden layer are normalized per sample, without parameters.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.1 and supplement.
    """

    name = "conv"

    channels: int = 0
    kernel: int = 3
    depth: int = 1

    def __post_init__(self) -> None:
        if self.channels < 0:
            raise SpecError(
                f"conv.channels is 1 or more, or 0 for as many as the value has, not {self.channels}."
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise SpecError(
                f"conv.kernel is odd, so that a gradient has its value's size, not {self.kernel}."
            )
        if self.depth < 1:
            raise SpecError(f"conv.depth is 1 or more, not {self.depth}. Use linear for no hidden layer.")

    def takes(self, spec: BoundarySpec) -> bool:
        """Whether every value of the boundary is `(batch, channels, *space)` with one to three in space."""
        return all(map(is_image, spec.values))

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        layout = Layout.of(self, spec)
        if (value := next((each for each in spec.values if not is_image(each)), None)) is not None:
            raise SynthesizerError(
                f"cannot build {layout.place}: the value has shape {value.shape}, its batch in dimension "
                f"{value.batch_dim} and its features in dimension {value.feature_dim}. A convolution takes "
                "(batch, channels, *space) with one to three dimensions in space. Use mlp or auto here."
            )
        return _Conv(layout, self, len(spec.values[0].shape))


class _Conv(Learner):
    def __init__(self, layout: Layout, choice: Conv, rank: int) -> None:
        super().__init__()
        self.layout = layout
        channels = choice.channels or min(max(layout.features, 16), 128)
        widths = [layout.features, *[channels] * choice.depth]

        def layer(one: int, other: int) -> nn.Module:
            padding = choice.kernel // 2
            return _LAYERS[rank](one, other, choice.kernel, padding=padding, dtype=layout.dtype, device="cpu")

        self.hidden = nn.ModuleList(layer(one, other) for one, other in itertools.pairwise(widths))
        self.context = Context(layout, channels)
        self.last = layer(channels, layout.features)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        self.layout.check_widths(values)
        dtype = next(self.last.parameters()).dtype
        parts = [_normalized(value.to(dtype)) for value in values]
        inside = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        for position, layer in enumerate(self.hidden):
            inside = layer(inside)
            inside = inside if position else self._conditioned(inside, context)
            inside = F.relu(_normalized(inside))
        return Guess(self.layout.split(self.last(inside).movedim(1, -1), values))

    def _conditioned(self, inside: Tensor, context: Tensor | None) -> Tensor:
        return self.context(inside.movedim(1, -1), context).movedim(-1, 1)


def _normalized(value: Tensor) -> Tensor:
    """Each sample `(channels, *space)` with mean 0 and variance 1: its pixels keep their relative size."""
    return F.layer_norm(value, value.shape[1:])
