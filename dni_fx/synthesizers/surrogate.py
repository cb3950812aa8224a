"""The backward pass of a small network in the place of the large one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from typing_extensions import override

from dni_fx.synthesizers.base import Learner
from dni_fx.synthesizers.critic import HeadLearner
from dni_fx.synthesizers.heads import Headed, head_for, outputs_of
from passes import BoundarySpec

_OUTPUTS = 32
"""How many scores there are where the number of the model's outputs is not known."""


@dataclass(frozen=True)
class Surrogate(Headed):
    """The value goes forward through a small network and a loss, and the guess comes back.

    It is regressed on the true gradient. With labels the loss is the task's, as for `critic`, behind a
    hidden layer. Without labels it is the logarithm of the sum of the exponentials of the scores, which is
    what a cross entropy is but for the score of the label.

    Sources:
        Miyato et al. 2017, "Synthetic Gradient Methods with Virtual Forward-Backward Networks".
    """

    name = "surrogate"
    needs: ClassVar[str] = ""

    depth: int = field(default=1, kw_only=True)

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return HeadLearner(head_for(self, spec, outputs_of(spec) or _OUTPUTS))
