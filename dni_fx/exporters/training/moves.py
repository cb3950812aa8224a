"""How optimizers move a parameter, as functions from tensors to tensors."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from passes import Named, Registry, SpecError


@dataclass(frozen=True)
class Move(Named):
    """How an optimizer moves a parameter by its gradient.

    `slots` are the tensors of the parameter's shape that it keeps, zeros at first.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    amplifies: ClassVar[bool] = False
    """Whether it moves a parameter as far whose gradient is rounding and nothing else."""

    weight_decay: float = 0.0

    @abc.abstractmethod
    def moved(
        self, parameter: Tensor, gradient: Tensor, kept: Mapping[str, Tensor], rate: Tensor, step: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The parameter after this step, counted from 1, and what is kept for the next one.

        `rate` and `step` are float64 and have no dimensions.
        """


@dataclass(frozen=True)
class SGD(Move):
    """`torch.optim.SGD` without momentum."""

    name = "sgd"

    @override
    def moved(
        self, parameter: Tensor, gradient: Tensor, kept: Mapping[str, Tensor], rate: Tensor, step: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return parameter - _like(rate, parameter) * _decayed(self, parameter, gradient), {}


@dataclass(frozen=True)
class Momentum(Move):
    """`torch.optim.SGD` with momentum."""

    name = "momentum"
    slots = ("momentum_buffer",)

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.momentum < 1:
            raise SpecError(f"momentum.momentum is above 0 and below 1, not {self.momentum}: sgd has none.")

    @override
    def moved(
        self, parameter: Tensor, gradient: Tensor, kept: Mapping[str, Tensor], rate: Tensor, step: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        gradient = _decayed(self, parameter, gradient)
        speed = kept["momentum_buffer"] * self.momentum + gradient
        along = gradient + self.momentum * speed if self.nesterov else speed
        return parameter - _like(rate, parameter) * along, {"momentum_buffer": speed}


@dataclass(frozen=True)
class Adam(Move):
    """`torch.optim.Adam`.

    Sources:
        Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1.
    """

    name = "adam"
    slots = ("exp_avg", "exp_avg_sq")
    amplifies = True
    decoupled: ClassVar[bool] = False

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for field in ("beta1", "beta2"):
            if not 0 <= getattr(self, field) < 1:
                raise SpecError(f"{self.name}.{field} is 0 or more and below 1, not {getattr(self, field)}.")

    @override
    def moved(
        self, parameter: Tensor, gradient: Tensor, kept: Mapping[str, Tensor], rate: Tensor, step: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.decoupled:
            parameter = parameter * _like(1 - rate * self.weight_decay, parameter)
        else:
            gradient = _decayed(self, parameter, gradient)
        first = kept["exp_avg"] * self.beta1 + gradient * (1 - self.beta1)
        second = kept["exp_avg_sq"] * self.beta2 + gradient * gradient * (1 - self.beta2)
        root = (1 - self.beta2**step).sqrt()
        size = _like(rate * root / (1 - self.beta1**step), parameter)
        # A constant as small as eps alone is optimized away as if it was zero.
        return parameter - size * first / (second.sqrt() + _like(self.eps * root, parameter)), {
            "exp_avg": first,
            "exp_avg_sq": second,
        }


@dataclass(frozen=True)
class AdamW(Adam):
    """`torch.optim.AdamW`.

    Sources:
        Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.
    """

    name = "adamw"
    decoupled = True

    weight_decay: float = 0.01


MOVES: Registry[type[Move]] = Registry(
    "optimizer", {"sgd": SGD, "momentum": Momentum, "adam": Adam, "adamw": AdamW}
)


def _like(number: Tensor, parameter: Tensor) -> Tensor:
    return number.to(parameter.dtype)


def _decayed(move: Move, parameter: Tensor, gradient: Tensor) -> Tensor:
    return gradient + parameter * move.weight_decay if move.weight_decay else gradient
