"""One layout for the values of a boundary: batch first, features last, side by side.

A synthesizer that maps features to features then need not know whether the features stood behind the
tokens of a sequence or before the pixels of an image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers.axes import Axes
from dni_fx.synthesizers.base import Synthesizer
from passes import BoundarySpec, ValueSpec

_FEW = 8
"""With fewer features than this, what is left after a layer norm says too little of the value."""


@dataclass(frozen=True)
class Layout:
    """The values of a boundary side by side: one batch, the same positions, all their features.

    `place` says for error messages who reads the values and where.
    """

    place: str
    classes: int
    axes: tuple[Axes, ...]

    @classmethod
    def of(cls, choice: Synthesizer, spec: BoundarySpec) -> Layout:
        """The layout of the boundary's values.

        Raises:
            SynthesizerError: the values differ in batch or positions, or no gradient of one can be learned.
        """
        place = place_of(choice, spec)
        axes = tuple(Axes.of(value) for value in spec.values)
        for value, each in zip(spec.values, axes, strict=True):
            _check_learnable(place, value, each)
        leads = [each.lead(value) for value, each in zip(spec.values, axes, strict=True)]
        if len({(each.batch is None, lead) for each, lead in zip(axes, leads, strict=True)}) > 1:
            sizes = ", ".join(
                f"({', '.join(map(str, lead))}) after {value.anchor}"
                for lead, value in zip(leads, spec.values, strict=True)
            )
            raise SynthesizerError(
                f"cannot build {place}: its values cannot be put side by side, for they differ in batch or "
                f"positions: {sizes}. Use zero, delayed or oracle here, or cut where one value crosses."
            )
        return cls(place, spec.classes, axes)

    @property
    def features(self) -> int:
        """How many features the values have together."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features each value has."""
        return tuple(each.features for each in self.axes)

    @property
    def hidden(self) -> int:
        """How wide a hidden layer is that nobody chose: as wide as the values, within 64 to 1024."""
        return min(max(self.features, 64), 1024)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds every value."""
        return functools.reduce(torch.promote_types, (each.dtype for each in self.axes))

    @property
    def batch(self) -> int | None:
        """Where the batch is in the first value, or None where no size of the values follows it."""
        return self.axes[0].batch

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """The values as one `(batch, *positions, features)`, or `(*positions, features)` without a batch.

        Raises:
            SynthesizerError: one has another number of features than the learner was built for, or they
                differ in batch or positions.
        """
        self.check_widths(values)
        parts = [axes.to_features_last(value) for axes, value in zip(self.axes, values, strict=True)]
        if len(parts) == 1:
            return parts[0]
        leads = [tuple(part.shape[:-1]) for part in parts]
        if len(set(leads)) > 1:
            raise SynthesizerError(
                f"{self.place} puts values side by side and is given batches and positions "
                f"{', '.join(map(str, leads))}. Cut where one value crosses, or choose delayed here."
            )
        return torch.cat(parts, -1)

    def split(self, guess: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inverse of `join` for a guess: a part for each value, in the value's own layout and dtype."""
        parts = guess.split(self.widths, -1)
        return tuple(
            axes.from_features_last(part).to(value.dtype)
            for axes, part, value in zip(self.axes, parts, values, strict=True)
        )

    def check_widths(self, values: Sequence[Tensor]) -> None:
        """Compare the values' numbers of features with those that the learner was built for.

        Raises:
            SynthesizerError: they differ.
        """
        for axes, value in zip(self.axes, values, strict=True):
            if (width := axes.width(value)) != axes.features:
                raise SynthesizerError(
                    f"{self.place} was built for {axes.features} features and is given {width}. "
                    "Decouple the model anew with an example of this size."
                )


def place_of(choice: Synthesizer, spec: BoundarySpec) -> str:
    """What error messages call a synthesizer at its boundary."""
    return f"{choice} at {spec.name} (after {', '.join(value.anchor for value in spec.values)})"


def _check_learnable(place: str, value: ValueSpec, axes: Axes) -> None:
    if not value.dtype.is_floating_point:
        raise SynthesizerError(
            f"cannot build {place}: the value is {value.dtype}, and only the gradients of floating-point "
            "values are learned. Use zero or oracle here, or cut elsewhere."
        )
    if axes.feature is not None and not isinstance(value.dims[axes.feature], int):
        raise SynthesizerError(
            f"cannot build {place}: its features, dimension {axes.feature} of {value.shape}, follow the "
            f"batch ({value.dims[axes.feature]}), and a learned map has a fixed width. Use zero or oracle "
            "here, or cut elsewhere."
        )


def normalized(value: Tensor, widths: Sequence[int] = ()) -> Tensor:
    """The value `(..., features)` at a root mean square of at most 1, each position by itself.

    It has no parameters and no state. A guess is then bounded by the learner's weights, so a stage whose
    activations grow does not receive ever larger gradients for it. Few features keep their mean
    and, below 1, their size: of a single one a layer norm would leave nothing. `widths` are the numbers of
    features of values that stand side by side: each is normalized by itself, so that a small one is heard.
    """
    if len(widths) > 1:
        return torch.cat([normalized(part) for part in value.split(list(widths), -1)], -1)
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
        rows = self.rows(context, inside.shape[:-1])
        missing = inside.dim() - rows.dim()
        return inside + rows.reshape(*rows.shape[:-1], *[1] * missing, rows.shape[-1])

    def rows(self, context: Tensor, positions: Sequence[int]) -> Tensor:
        """`(batch, *part, width)`: a row for each label, where `(batch, *part)` are the first of `positions`.

        Raises:
            SynthesizerError: the context does not fit the positions or the number of classes.
        """
        if self.table is None:
            raise SynthesizerError(
                f"{self.layout.place} is given a context of shape {tuple(context.shape)} and was built for "
                'no classes. Say how many there are with interface="dni:classes=10", or pass no dni_context.'
            )
        self._check(context, tuple(positions))
        if context.is_floating_point():
            return context.to(self.table.dtype) @ self.table
        try:
            rows = F.embedding(context.long().clamp(min=0), self.table)
        except IndexError:
            raise no_such_class(self.layout.place, self.layout.classes, context) from None
        return rows * (context.long() >= 0).unsqueeze(-1)

    def _check(self, context: Tensor, positions: tuple[int, ...]) -> None:
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
        part = spoken_of(context)
        if not part or positions[: len(part)] != part:
            raise SynthesizerError(
                f"{given} for a value whose batch and positions are {positions}. A context has the batch of "
                "the value and then none, some or all of its positions, from the left."
            )


def spoken_of(context: Tensor) -> tuple[int, ...]:
    """The batch, and the positions if any, that a context has something to say of, one by one."""
    return tuple(context.shape[:-1] if context.is_floating_point() else context.shape)


def no_such_class(place: str, classes: int, labels: Tensor) -> SynthesizerError:
    """The error for labels beyond the last class."""
    most = int(labels.max())
    return SynthesizerError(
        f"{place} is given the label {most}, and its {classes} classes are 0 to {classes - 1}. Say how many "
        f'there are with interface="dni:classes={most + 1}".'
    )
