"""A guess that is the true gradient of an earlier batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dni_fx.errors import SynthesizerError
from dni_fx.synthesizers.axes import Axes
from dni_fx.synthesizers.base import Guess, Remembering, Synthesizer
from dni_fx.synthesizers.layout import no_such_class, place_of
from passes import BoundarySpec, SpecError

_KEYS = ("auto", "label", "place")


_CLASSES = 4
"""How many classes there are for each sample of a batch, at most, before their memory outgrows the batch."""


@dataclass(frozen=True)
class Delayed(Synthesizer):
    """Guesses the true gradient that an earlier batch had here. It learns nothing and has no parameters.

    `by=label` guesses the running mean of the gradients that came with the sample's class, of which `memory`
    stays at each batch that has it; labels may also stand at each position. `by=place` guesses what the
    sample at the same place of the last batch had. `by=auto` goes by labels where integer labels are given
    and their classes known and no more than four for each sample of the example, and else by place.

    It is exact where batches repeat and the weights stand still: by place for the same samples in the same
    order, by label where a class has one sample. Anywhere else it knows no more than what samples have in
    common, by label those of a class and by place all, with the noise of one: it never looks at the value.
    Where it heard of nothing yet, and for the samples or tokens that a batch has more, it guesses 0.

    Sources:
        Huo et al. 2018, https://arxiv.org/abs/1804.10574, which replays the delayed batch as well: there the
        gradient meets its own activations, and here those of the present batch.
    """

    name = "delayed"

    by: str = "auto"
    memory: float = 0.9

    def __post_init__(self) -> None:
        if self.by not in _KEYS:
            raise SpecError(f"delayed.by is auto, label or place, not {self.by!r}.")
        if not 0 <= self.memory < 1:
            raise SpecError(f"delayed.memory is 0 or more and below 1, not {self.memory}.")

    @override
    def build(self, spec: BoundarySpec) -> Remembering:
        if self.by == "label" and not spec.classes:
            raise SynthesizerError(
                f"cannot build {place_of(self, spec)}: it goes by labels, and it is not known how many "
                'classes there are. Say it with interface="dni:classes=10", or choose by=place.'
            )
        return _Delayed(self, spec)


class _Delayed(Remembering):
    """Holds of each value the `last` gradient, as it came, and the `mean` of each class with its `weight`.

    A mean is `(classes, *rest, features)`, where `rest` are the positions that no label speaks of one by one.
    It is the sum of gradients that fade, to be divided by the sum of their weights, which fade likewise.
    """

    def __init__(self, choice: Delayed, spec: BoundarySpec) -> None:
        super().__init__()
        self.choice = choice
        self.place = place_of(choice, spec)
        self.classes = spec.classes
        self.are_few = self.classes <= _CLASSES * (spec.values[0].shape[0] if spec.values[0].shape else 1)
        self.axes = [Axes.of(value) for value in spec.values]
        for i, value in enumerate(spec.values):
            for kind in ("last", "mean", "weight"):
                self.register_buffer(f"{kind}_{i}", torch.zeros(0, dtype=value.dtype, device="cpu"))

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        return Guess(tuple(self._guess(i, value, context) for i, value in enumerate(values)))

    @override
    @torch.no_grad()
    def remember(self, targets: tuple[Tensor, ...], context: Tensor | None) -> None:
        for i, target in enumerate(targets):
            target = target.detach().to(self.get_buffer(f"last_{i}"))
            labels = self._labels(i, target, context)
            if labels is None:
                setattr(self, f"last_{i}", target.clone())
            else:
                self._take_in(i, self.axes[i].to_features_last(target), labels)

    def _guess(self, i: int, value: Tensor, context: Tensor | None) -> Tensor:
        labels = self._labels(i, value, context)
        if labels is None:
            return _fitted(self.get_buffer(f"last_{i}").to(value), value.shape)
        like = self.axes[i].to_features_last(value)
        if (table := self._table(i, like.shape[labels.dim() :])) is None:
            return torch.zeros_like(value)
        try:
            mean, weight = (each[labels.clamp(min=0)] for each in table)
        except IndexError:
            raise no_such_class(self.place, self.classes, labels) from None
        known = torch.where(weight == 0, 0, mean / torch.where(weight == 0, 1, weight))
        known = known * (labels >= 0).reshape(*labels.shape, *[1] * (known.dim() - labels.dim()))
        return self.axes[i].from_features_last(_fitted(known.to(value), like.shape))

    def _take_in(self, i: int, target: Tensor, labels: Tensor) -> None:
        """Let the mean gradient of each class in `(batch, *positions, features)` into the running one."""
        *rest, features = target.shape[labels.dim() :]
        said = labels >= 0
        present, which = labels[said].unique(return_inverse=True)
        if len(present) and int(present[-1]) >= self.classes:
            raise no_such_class(self.place, self.classes, labels)
        sums = target.new_zeros(len(present), *rest, features).index_add_(0, which, target[said])
        counts = which.bincount(minlength=len(present)).to(sums)
        new = sums / counts.reshape(-1, *[1] * (sums.dim() - 1))
        table = self._table(i, (*rest, features))
        mean, weight = table or (target.new_zeros(self.classes, *rest, width) for width in (features, 1))
        sizes = [max(old, now) for old, now in zip(mean.shape[1:-1], rest, strict=True)]
        here = (present, *(slice(size) for size in rest))
        for name, fading, now in (("mean", mean, new), ("weight", weight, torch.ones_like(new[..., :1]))):
            wide = (self.classes, *sizes, fading.shape[-1])
            faded = fading if fading.shape == wide else _fitted(fading, wide)
            faded[here] = torch.lerp(faded[here], now, 1 - self.choice.memory)
            setattr(self, f"{name}_{i}", faded)

    def _table(self, i: int, rest: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """The sums of gradients and of weights, if they are of gradients `(*rest)` but for the positions."""
        mean = self.get_buffer(f"mean_{i}")
        is_like = mean.dim() == 1 + len(rest) and (mean.shape[0], mean.shape[-1]) == (self.classes, rest[-1])
        return (mean, self.get_buffer(f"weight_{i}")) if is_like else None

    def _labels(self, i: int, value: Tensor, context: Tensor | None) -> Tensor | None:
        """Integer labels `(batch, *part)` to go by, or None to go by place."""
        if self.choice.by == "place" or (self.choice.by == "auto" and not self.are_few):
            return None
        positions = tuple(self.axes[i].to_features_last(value).shape[:-1])
        if self._names(i, positions, context):
            assert context is not None
            return context.long()
        if self.choice.by == "auto":
            return None
        kind = "no labels" if context is None else f"a context of {context.dtype} {tuple(context.shape)}"
        raise SynthesizerError(
            f"{self.place} goes by labels and is given {kind} for a value whose batch and positions are "
            f"{positions}. Pass dni_context= integer labels (batch,) or (batch, *positions), or choose "
            "by=auto."
        )

    def _names(self, i: int, positions: tuple[int, ...], context: Tensor | None) -> bool:
        if context is None or context.is_floating_point() or not self.classes:
            return False
        part = tuple(context.shape)
        return self.axes[i].batch is not None and part != () and positions[: len(part)] == part

    @override
    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in list(self.named_buffers(recurse=False)):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != buffer.shape:  # it follows the batch, or the labels
                setattr(self, name, buffer.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _fitted(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of this shape that holds what both have, and 0 elsewhere."""
    if memory.shape == torch.Size(shape):
        return memory.clone()
    result = memory.new_zeros(shape)
    if memory.dim() == len(shape):
        both = tuple(slice(min(one, other)) for one, other in zip(memory.shape, shape, strict=True))
        result[both] = memory[both]
    return result
