"""What the actions of a stage cost, and what sending does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dni_fx.schedules.actions import Kind


@dataclass(frozen=True)
class StageCost:
    """Seconds of what one stage does for one batch, and bytes that it holds for it meanwhile.

    `weight` is the part of `backward` that computes gradients of parameters. `guess` is what a synthetic
    backward pass takes longer than a true one, and `regress` what a synthesizer takes to learn. `saved` is
    held from the forward to the (whole) backward pass, and `guessed` from a synthetic one to its regression.
    """

    forward: float
    backward: float
    weight: float = 0
    guess: float = 0
    regress: float = 0
    step: float = 0
    saved: float = 0
    guessed: float = 0

    def seconds(self, kind: Kind) -> float:
        """How long an action takes; sending and receiving take the rank no time of its own."""
        match kind:
            case Kind.FORWARD:
                return self.forward
            case Kind.BACKWARD:
                return self.backward
            case Kind.INPUT_GRADIENT:
                return self.backward - self.weight
            case Kind.WEIGHT_GRADIENT:
                return self.weight
            case Kind.SYNTHETIC_BACKWARD:
                return self.backward + self.guess
            case Kind.REGRESSION:
                return self.regress
            case Kind.STEP:
                return self.step
            case _:
                return 0


@dataclass(frozen=True)
class Network:
    """Each rank sends and receives so many bytes a second, and a message is `latency` seconds on its way."""

    bandwidth: float = math.inf
    latency: float = 0

    def seconds(self, size: float) -> float:
        """How long a message of so many bytes keeps the line of its sender busy."""
        return size / self.bandwidth if size else 0


def alone(costs: Sequence[StageCost]) -> float:
    """Seconds of a batch on one rank that trains all stages by plain backprop, and updates after each."""
    return sum(cost.forward + cost.backward + cost.step for cost in costs)
