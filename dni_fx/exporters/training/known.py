"""What is known of an example: every tensor by its name, with data and without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dni_fx.exporters.training.plain import Plain, plain
from dni_fx.exporters.training.tracing import Function, Shapes
from dni_fx.stage import Stage


@dataclass(frozen=True)
class Entry:
    """One graph: what it is called, the function that it computes, and what that is given in the example."""

    name: str
    function: Function
    real: Mapping[str, Tensor]
    fake: Mapping[str, Tensor]


@dataclass
class Known:
    """Every tensor of the example, with data and without, by the name that functions know it by.

    `told` is what stages write that is no tensor. All `is_fixed` to the sizes of the example if some of it
    is a size that varies, and what is read beside it does not tell that.
    """

    shapes: Shapes
    real: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    fake: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    told: dict[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    is_fixed: bool = False

    def add(self, name: str, tensor: Tensor, varying: frozenset[int] = frozenset()) -> None:
        """Take in a tensor of which these sizes vary."""
        self.real[name] = tensor.detach()
        self.fake[name] = self.shapes.of(tensor, varying)

    def hold(self, stage: Stage) -> None:
        """Take in the weights and buffers of a stage."""
        for name, parameter in stage.named_parameters().items():
            self.add(f"p:{name}", parameter)
        for name, buffer in stage.named_buffers().items():
            self.add(f"b:{name}", buffer)

    def take(self, name: str, called: str, real: Any, fake: Any) -> bool:
        """Take in what a stage has written, by its name and what functions call it; is it a tensor?"""
        if isinstance(real, Tensor):
            self.real[called], self.fake[called] = real, fake
        else:
            self.told[name] = real, fake
        return isinstance(real, Tensor)

    def plain(self, names: Iterable[str], beside: Iterable[str]) -> dict[str, Plain]:
        """What is no tensor of these names, by tensors that are read beside it."""
        tensors = {name: self.fake[name] for name in beside if name in self.fake}
        found = {name: plain(*self.told[name], tensors) for name in names if name in self.told}
        self.is_fixed |= any(each.is_fixed for each in found.values())
        return found

    def entry(self, name: str, function: Function, given: Iterable[str]) -> Entry:
        """A graph of what is known under these names."""
        names = [each for each in given if each in self.real]
        return Entry(
            name,
            function,
            {each: self.real[each] for each in names},
            {each: self.fake[each] for each in names},
        )
