"""Heads: a guess of the model's outputs from a value, and the loss of the task on it.

The gradient of that loss at the value is a synthetic gradient: `critic`, `local-head` and `surrogate`
differ in what the head learns from. A head reads the value through a layer norm without parameters, so
the gradient is bounded by its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers.axes import is_image
from dni_fx.synthesizers.base import Synthesizer
from dni_fx.synthesizers.layers import hidden_layers
from dni_fx.synthesizers.layout import Layout, no_such_class, normalized
from dni_fx.synthesizers.scores import Scores
from passes import BoundarySpec, SpecError, ValueSpec

_TASKS = ("auto", "cross-entropy", "mse")
_GRID = 4
_PACE = 1 / 3
"""Measured on a convolutional net: at the full rate the stages follow a head that is still noisy."""
_POOLED = 2048
"""Features that are left of an image, at most: channels times the places of the grid that it is pooled to."""


@dataclass(frozen=True)
class Headed(Synthesizer):
    """What all synthesizers with a head can be told.

    `task` is the loss: "cross-entropy" of integer labels or of floats that are probabilities, "mse" of
    floats; "auto" goes by the labels' type. The head is linear, or has `depth` hidden layers of `hidden`
    units (0 is as many as the value has features). An image whose labels speak of the whole is averaged
    over the places of a `grid` first, of up to 4 by 4 if it is 0; with `grid=1` labels may also speak of
    pixels. For many classes, `rank` factors the output layer, and `samples` lets each step compare the
    labels of the batch with so many other classes alone.
    """

    needs: ClassVar[str] = "context"

    task: str = field(default="auto", kw_only=True)
    hidden: int = field(default=0, kw_only=True)
    depth: int = field(default=0, kw_only=True)
    grid: int = field(default=0, kw_only=True)
    rank: int = field(default=0, kw_only=True)
    samples: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.task not in _TASKS:
            raise SpecError(f"{self.name}.task is one of {', '.join(_TASKS)}, not {self.task!r}.")
        for option in ("hidden", "depth", "grid", "rank", "samples"):
            if getattr(self, option) < 0:
                raise SpecError(f"{self.name}.{option} is 0 or more, not {getattr(self, option)}.")


class Head(nn.Module):
    """Scores for a value, and their loss against what the context holds."""

    def __init__(self, layout: Layout, spec: BoundarySpec, choice: Headed, outputs: int) -> None:
        super().__init__()
        self.layout = layout
        self.task = choice.task
        self.space = len(spec.values[0].shape) - 2 if is_image(spec.values[0]) else 0
        self.grid = _grid(choice, layout.features, spec) if self.space else 1
        features = layout.features * self.grid**self.space
        width = choice.hidden or layout.features
        self.hidden = hidden_layers(features, width, choice.depth, layout.dtype)
        self.scores = Scores(
            width if choice.depth else features, outputs, choice.rank, choice.samples, layout.dtype
        )

    @property
    def pace(self) -> float:
        """How fast it learns: behind a grid it has far more weights than there are labels."""
        return _PACE if self.space else 1.0

    def fits(self, positions: tuple[int, ...], context: Tensor) -> bool:
        """Whether the context has labels for samples or places of a value with these, batch first."""
        return self._part(positions, context) is not None

    def loss(self, inside: Tensor, context: Tensor) -> Tensor:
        """The mean loss over all labels of a value `(batch, *positions, features)`; a negative label is none.

        Raises:
            SynthesizerError: the labels do not fit the value.
        """
        part = self._part(tuple(inside.shape[:-1]), context)
        if part is None:
            raise self._misfit(inside, context)
        features = self._features(inside, part)
        if self._is_regression(context):
            return F.mse_loss(self.scores(features), self._as_outputs(context).to(features.dtype))
        if context.is_floating_point():
            scores = self.scores(features).flatten(0, -2)
            return F.cross_entropy(scores, self._as_outputs(context).to(features.dtype).flatten(0, -2))
        try:
            return self.scores.cross_entropy(features.flatten(0, -2), context.flatten().long())
        except IndexError:
            raise no_such_class(self.layout.place, self.scores.outputs, context) from None

    def _misfit(self, inside: Tensor, context: Tensor) -> SynthesizerError:
        kind = "floats" if context.is_floating_point() else "labels"
        given = f"{self.layout.place} is given {kind} of shape {tuple(context.shape)} for a value"
        if self.layout.batch is None:
            return SynthesizerError(
                f"{given} without a batch, which no label can speak of. Choose zero here."
            )
        pixels = " with grid=1" if self.space else ""
        return SynthesizerError(
            f"{given} whose batch and positions are {tuple(inside.shape[:-1])}, and has "
            f"{self.scores.outputs} outputs. Labels are (batch,) or{pixels} one for each position; "
            "floats one for each output as well. Say how many there are with "
            'interface="dni:classes=10", or choose mlp.'
        )

    def free_energy(self, inside: Tensor) -> Tensor:
        """The mean log of the summed exponentials of the scores of `(batch, *positions, features)`."""
        return self.scores(self._features(inside, 1 if self.space else inside.dim() - 1)).logsumexp(-1).mean()

    def _is_regression(self, context: Tensor) -> bool:
        return self.task == "mse" or (self.task == "auto" and context.is_floating_point())

    def _as_outputs(self, context: Tensor) -> Tensor:
        """The context with a last dimension for the outputs."""
        return (
            context
            if context.dim() > 1 and context.shape[-1] == self.scores.outputs
            else context.unsqueeze(-1)
        )

    def _part(self, positions: tuple[int, ...], context: Tensor) -> int | None:
        """How many of the value's dimensions, from the left, the labels speak of; None if they do not fit."""
        if self.layout.batch is None or not context.dim():
            return None
        shape = tuple(context.shape)
        if self._is_regression(context) or context.is_floating_point():
            shape = tuple(self._as_outputs(context).shape)
            if shape[-1] != self.scores.outputs:
                return None
            shape = shape[:-1]
        if shape != positions[: len(shape)] or (self.grid > 1 and len(shape) > 1):
            return None
        return len(shape)

    def _features(self, inside: Tensor, part: int) -> Tensor:
        """`(batch, *part, features)`, averaged over the positions that no label of its own speaks of."""
        inside = inside.to(self.scores.weight.dtype)
        if self.space and part == 1:
            pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[self.space]
            inside = pool(inside.movedim(-1, 1), self.grid).flatten(1)
        elif rest := tuple(range(part, inside.dim() - 1)):
            inside = inside.mean(rest)
        widths = self.layout.widths if self.grid == 1 else ()  # a grid has mixed them
        features = normalized(inside, widths)
        for layer in self.hidden:
            features = F.gelu(normalized(layer(features)))
        return features


def outputs_of(spec: BoundarySpec) -> int:
    """How many outputs a head has: what the user said, or as many as the model; 0 if neither is known."""
    return spec.classes or spec.outputs


def head_for(choice: Headed, spec: BoundarySpec, outputs: int | None = None) -> Head:
    """A head at a boundary, its last layer at zero.

    Raises:
        SynthesizerError: the value has no layout, or it is not known how many outputs there are.
    """
    layout = Layout.of(choice, spec)
    outputs = outputs_of(spec) if outputs is None else outputs
    if not outputs:
        raise SynthesizerError(
            f"cannot build {layout.place}: it is not known how many outputs the model has. Say it with "
            'interface="dni:classes=10".'
        )
    return Head(layout, spec, choice, outputs)


def label_sizes(value: ValueSpec) -> tuple[int, ...]:
    """Sizes of the labels of a value at the example, if an image has one and of anything else each place."""
    feature = value.feature_dim % max(len(value.shape), 1)
    return tuple(
        size for at, size in enumerate(value.shape) if at != feature and not (is_image(value) and at > 1)
    )


def flops_of(choice: Headed, spec: BoundarySpec) -> int:
    """Floating-point operations of a linear head's forward pass with all labels there can be."""
    value = spec.values[0]
    features = value.shape[value.feature_dim] if value.shape else 1
    places = math.prod(label_sizes(value))
    if is_image(value):
        features *= _grid(choice, features, spec) ** (len(value.shape) - 2)
    outputs = min(outputs_of(spec), choice.samples + places) if choice.samples else outputs_of(spec)
    if choice.rank:
        return 2 * places * choice.rank * (features + outputs)
    return 2 * places * features * outputs


def _grid(choice: Headed, features: int, spec: BoundarySpec) -> int:
    """Places of the grid along each dimension of space."""
    space = spec.values[0].shape[2:]
    most = min(choice.grid or _GRID, *space)
    while not choice.grid and most > 1 and features * most ** len(space) > _POOLED:
        most -= 1
    return max(most, 1)
