"""A synthesizer to suit the value and what is known beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from dni_fx.synthesizers.base import Guess, Learner, Synthesizer
from dni_fx.synthesizers.conv import Conv
from dni_fx.synthesizers.heads import flops_of, outputs_of
from dni_fx.synthesizers.linear import Linear
from dni_fx.synthesizers.local_head import LocalHead, LocalHeadLearner
from dni_fx.synthesizers.mlp import MLP
from passes import BoundarySpec

_SAMPLES = 1024


@dataclass(frozen=True)
class Auto(Synthesizer):
    """With integer labels a `local-head`; without them `conv` for images, and `mlp` for everything else.

    Labels count where they fit the value and the number of the model's outputs is known. A head that costs
    more than the stage before it is factored, then sampled, then left out. Floats as context are one
    more input of the `conv` or `mlp`. Several values that cross as one have no head: labels are input, too.
    State that is carried to the next step has a `linear` guess.
    """

    name = "auto"

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        plain = self.choose(spec).build(spec)
        if (head := self.head(spec)) is None:
            return plain
        return _Either(head.build(spec), plain, len(spec.value.shape) - 1)

    def choose(self, spec: BoundarySpec) -> Synthesizer:
        """What guesses at this boundary where there are no labels. Builds nothing and never refuses."""
        if spec.delay:
            return Linear(
                norm="none"
            )  # measured on the Copy task: state is bounded, and its length says something
        return conv if (conv := Conv()).takes(spec) else MLP()

    def head(self, spec: BoundarySpec) -> LocalHead | None:
        """What guesses at this boundary where there are labels; None if nothing that its stage can afford."""
        if not outputs_of(spec) or len(spec.values) > 1 or spec.value.batch_dim < 0:
            return None
        return next(
            (head for head in _heads(spec) if not spec.cost or flops_of(head, spec) <= spec.cost), None
        )


class _Either(Learner):
    """Asks its head where there are labels for it, and the other learner where there are none."""

    def __init__(self, head: LocalHeadLearner, plain: Learner, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.labeled = head
        self.plain = plain

    @override
    def needs_truth(self, context: Tensor | None) -> bool:
        return context is None or context.is_floating_point() or not 0 < context.dim() <= self.positions

    @override
    def forward(self, values: tuple[Tensor, ...], context: Tensor | None) -> Guess:
        if context is not None and not context.is_floating_point() and self.labeled.fits(values, context):
            self.pace = self.labeled.pace
            guess = self.labeled(values, context)
            rest = [None] * sum(1 for _ in self.plain.parameters())
            return guess if guess.learned is None else guess._replace(learned=[*guess.learned, *rest])
        self.pace = self.plain.pace
        return self.plain(values, context)


def _heads(spec: BoundarySpec) -> Iterator[LocalHead]:
    yield LocalHead()
    features = spec.value.shape[spec.value.feature_dim] if spec.value.shape else 1
    yield LocalHead(rank=max(features // 4, 1))
    yield LocalHead(samples=_SAMPLES)
