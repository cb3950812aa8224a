"""What optimizers move in the place of a model's parameters."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, final

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

_T = TypeVar("_T")


class Moved(abc.ABC):
    """Which tensors optimizers move in this process, and what their state looks like as a whole."""

    @abc.abstractmethod
    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        """What is moved for a parameter of the model."""

    @abc.abstractmethod
    def is_part(self, tensor: Tensor) -> bool:
        """Whether this is moved for a parameter of which other processes move the rest."""

    @abc.abstractmethod
    def put(self, optimizer: Optimizer) -> None:
        """Have an optimizer that was made for parameters of the model move what is moved for them."""

    @abc.abstractmethod
    def divided(self, optimizer: Optimizer, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """A state of the whole as one of what this process moves; the same object if that is the same."""

    @abc.abstractmethod
    def gathered(self, tree: _T, alone: bool) -> _T:
        """The same tree of states as that of the whole: all do it at once.

        With `alone`, only in the process that leads; others have anything.
        """

    @abc.abstractmethod
    def step(self, optimizer: Optimizer) -> None:
        """Have an optimizer move what it has gradients of."""

    @abc.abstractmethod
    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> None:
        """Bound the norm of the gradients of all of these together."""


@final
class Undivided(Moved):
    """Optimizers move the parameters themselves."""

    @override
    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        return parameter

    @override
    def is_part(self, tensor: Tensor) -> bool:
        return False

    @override
    def put(self, optimizer: Optimizer) -> None:
        return

    @override
    def divided(self, optimizer: Optimizer, state: Mapping[str, Any]) -> Mapping[str, Any]:
        return state

    @override
    def gathered(self, tree: _T, alone: bool) -> _T:
        return tree

    @override
    def step(self, optimizer: Optimizer) -> None:
        optimizer.step()

    @override
    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> None:
        nn.utils.clip_grad_norm_(parameters, most)
