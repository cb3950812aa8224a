"""One layout for every value and its context: batch first, features last.

A synthesizer that maps features to features then need not know whether the features stood behind the
tokens of a sequence or before the pixels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers.base import Synthesizer
from passes import BoundarySpec

_FEW = 8
"""With fewer features than this, what is left after a layer norm says too little of the value."""


@dataclass(frozen=True)
class Layout:
    """Where the batch and the features are in the one value of a boundary.

    `place` says for error messages who reads the value and where. `batch` is None where no size follows
    the batch, and `feature` where a value has no dimension but its batch: it then has one feature.
    """

    place: str
    classes: int
    features: int
    dtype: torch.dtype
    batch: int | None
    feature: int | None

    @classmethod
    def of(cls, choice: Synthesizer, spec: BoundarySpec) -> Layout:
        """The layout of the boundary's value.

        Raises:
            SynthesizerError: there are several values, or no gradient of the value can be learned.
        """
        if len(spec.values) != 1:
            anchors = ", ".join(value.anchor for value in spec.values)
            raise SynthesizerError(
                f"cannot build {choice} at {spec.name}: it guesses the gradient of one value, and {anchors} "
                f"are {len(spec.values)}. Use zero or oracle here, or cut where one value crosses."
            )
        value = spec.value
        place = f"{choice} at {spec.name} (after {value.anchor})"
        rank = len(value.shape)
        batch = value.batch_dim if 0 <= value.batch_dim < rank else None
        feature = value.feature_dim % rank if rank else None
        if feature == batch:
            feature = None
        if not value.dtype.is_floating_point:
            raise SynthesizerError(
                f"cannot build {place}: the value is {value.dtype}, and only the gradients of floating-point "
                "values are learned. Use zero or oracle here, or cut elsewhere."
            )
        if feature is not None and not isinstance(value.dims[feature], int):
            raise SynthesizerError(
                f"cannot build {place}: its features, dimension {feature} of {value.shape}, follow the batch "
                f"({value.dims[feature]}), and a learned map has a fixed width. Use zero or oracle here, or "
                "cut elsewhere."
            )
        features = 1 if feature is None else value.shape[feature]
        return cls(place, spec.classes, features, value.dtype, batch, feature)

    def to_features_last(self, value: Tensor) -> Tensor:
        """The value as `(batch, *rest, features)`, or `(*rest, features)` if it has no batch.

        Raises:
            SynthesizerError: it has another number of features than the learner was built for.
        """
        self.check_width(value)
        value = value.unsqueeze(-1) if self.feature is None else value
        return value.movedim(self._here, self._there)

    def from_features_last(self, value: Tensor) -> Tensor:
        """The inverse of `to_features_last`."""
        value = value.movedim(self._there, self._here)
        return value.squeeze(-1) if self.feature is None else value

    def check_width(self, value: Tensor) -> None:
        """Compare the value's number of features with the one that the learner was built for.

        Raises:
            SynthesizerError: they differ.
        """
        features = 1 if self.feature is None else value.shape[self.feature]
        if features != self.features:
            raise SynthesizerError(
                f"{self.place} was built for {self.features} features and is given {features}. "
                "Decouple the model anew with an example of this size."
            )

    @property
    def _here(self) -> tuple[int, ...]:
        feature = -1 if self.feature is None else self.feature
        return (feature,) if self.batch is None else (self.batch, feature)

    @property
    def _there(self) -> tuple[int, ...]:
        return (-1,) if self.batch is None else (0, -1)


def normalized(value: Tensor) -> Tensor:
    """The value `(..., features)` at a root mean square of at most 1, each position by itself.

    It has no parameters and no state. A guess is then bounded by the learner's weights, so a stage whose
    activations grow does not receive ever larger gradients for it. Few features keep their mean
    and, below 1, their size: of a single one a layer norm would leave nothing.
    """
    if value.shape[-1] >= _FEW:
        return F.layer_norm(value, value.shape[-1:])
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    return (wide * (1 + wide.square().mean(-1, keepdim=True)).rsqrt()).to(value.dtype)


class Context(nn.Module):
    """What the labels add to the first layer of a learner: one row of a table for each class.

    Adding the row of a label is the same as to concatenate its one-hot vector to the layer's input, at the
    price of a lookup. Where the number of classes is not known there is no table.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.1 (cDNI).
    """

    table: nn.Parameter | None

    def __init__(self, layout: Layout, width: int, bound: float = 1.0) -> None:
        super().__init__()
        self.layout = layout
        self.table = None
        if layout.classes:
            rows = torch.empty(layout.classes, width, dtype=layout.dtype, device="cpu")
            # Not divided by the square root of the inputs, as weights are: only one row is added at a time.
            self.table = nn.Parameter(rows.uniform_(-bound, bound) if bound else rows.zero_())

    @override
    def forward(self, inside: Tensor, context: Tensor | None) -> Tensor:
        """`(batch, *rest, width)` and the rows of its labels; as it came where there is no context.

        Labels are integers `(batch, *part)`, where `part` is none, some or all of `rest` from the left: one
        label `(batch,)` speaks of all tokens, `(batch, time)` of each. A negative label adds nothing. Floats
        `(batch, *part, classes)` weigh the rows. A label beyond the last class is found on the CPU
        only; elsewhere looking for it would stop the device at every boundary.

        Raises:
            SynthesizerError: the context does not fit the value or the number of classes.
        """
        if context is None:
            return inside
        if self.table is None:
            raise SynthesizerError(
                f"{self.layout.place} is given a context of shape {tuple(context.shape)} and was built for "
                'no classes. Say how many there are with interface="dni:classes=10", or pass no dni_context.'
            )
        self._check(inside, context)
        if context.is_floating_point():
            rows = context.to(self.table.dtype) @ self.table
        else:
            rows = self._rows(context, self.table)
        missing = inside.dim() - rows.dim()
        return inside + rows.reshape(*rows.shape[:-1], *[1] * missing, rows.shape[-1])

    def _rows(self, labels: Tensor, table: Tensor) -> Tensor:
        try:
            rows = F.embedding(labels.long().clamp(min=0), table)
        except IndexError:
            raise SynthesizerError(
                f"{self.layout.place} is given the label {int(labels.max())}, and its {self.layout.classes} "
                f"classes are 0 to {self.layout.classes - 1}. Say how many there are with "
                f'interface="dni:classes={int(labels.max()) + 1}".'
            ) from None
        return rows * (labels >= 0).unsqueeze(-1)

    def _check(self, inside: Tensor, context: Tensor) -> None:
        layout, shape = self.layout, tuple(context.shape)
        kind = "floats" if context.is_floating_point() else "labels"
        given = f"{layout.place} is given {kind} of shape {shape}"
        if layout.batch is None:
            raise SynthesizerError(
                f"{given} for a value without a batch, which no label can speak of. Choose zero for this "
                "boundary, or cut elsewhere."
            )
        if kind == "floats" and (not shape or shape[-1] != layout.classes):
            raise SynthesizerError(
                f"{given}. Floats weigh the {layout.classes} classes, (batch, {layout.classes}); labels that "
                "name a class are integers."
            )
        part = shape[:-1] if kind == "floats" else shape
        positions = tuple(inside.shape[:-1])
        if not part or positions[: len(part)] != part:
            raise SynthesizerError(
                f"{given} for a value whose batch and positions are {positions}. A context has the batch of "
                "the value and then none, some or all of its positions, from the left."
            )
