"""A synthesizer to suit the value."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from dni_fx.synthesizers.base import Learner, Synthesizer
from dni_fx.synthesizers.conv import Conv
from dni_fx.synthesizers.mlp import MLP
from passes import BoundarySpec


@dataclass(frozen=True)
class Auto(Synthesizer):
    """`conv` where features stand before one to three dimensions of space, and `mlp` everywhere else."""

    name = "auto"

    @override
    def build(self, spec: BoundarySpec) -> Learner:
        return self.choose(spec).build(spec)

    def choose(self, spec: BoundarySpec) -> Synthesizer:
        """What is built for this boundary. Builds nothing and never refuses."""
        return conv if (conv := Conv()).takes(spec) else MLP()
