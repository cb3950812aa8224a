"""What the actions of a stage cost, and what sending does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        """How long an action takes; what sending and receiving take is up to the network."""
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
class Bookkeeping:
    """Seconds that a runtime takes for itself, for each pass and for each update of a stage."""

    passing: float = 0
    step: float = 0

    def around(self, cost: StageCost) -> StageCost:
        """What a stage costs in such a runtime: each of its passes and its update take longer."""
        return replace(
            cost,
            forward=cost.forward + self.passing,
            backward=cost.backward + self.passing,
            step=cost.step + self.step,
        )


@dataclass(frozen=True)
class Handling:
    """Seconds for which a message, and each of its bytes, keeps a rank busy: packing, copying, waking up."""

    message: float = 0
    byte: float = 0

    def seconds(self, size: float) -> float:
        """How long a message of so many bytes keeps the rank busy."""
        return self.message + self.byte * size


@dataclass(frozen=True)
class Network:
    """Each rank sends and receives so many bytes a second, and a message is `latency` seconds on its way.

    Before it leaves, `sending` keeps its sender busy, and once it is taken, `receiving` its receiver.
    """

    bandwidth: float = math.inf
    latency: float = 0
    sending: Handling = Handling()
    receiving: Handling = Handling()

    def seconds(self, size: float) -> float:
        """How long a message of so many bytes keeps the line of its sender busy."""
        return size / self.bandwidth if size else 0


def alone(costs: Sequence[StageCost]) -> float:
    """Seconds of a batch on one rank that trains all stages by plain backprop, and updates after each."""
    return sum(cost.forward + cost.backward + cost.step for cost in costs)
