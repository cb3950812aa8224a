"""What is known of an example: every tensor by its name, with data and without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dni_fx.exporters.training.tracing import Function, Shapes


@dataclass(frozen=True)
class Entry:
    """One graph: what it is called, the function that it computes, and what that is given in the example."""

    name: str
    function: Function
    real: Mapping[str, Tensor]
    fake: Mapping[str, Tensor]


@dataclass
class Known:
    """Every tensor of the example, with data and without, by the name that functions know it by."""

    shapes: Shapes
    real: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    fake: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def add(self, name: str, tensor: Tensor, varying: frozenset[int] = frozenset()) -> None:
        """Take in a tensor of which these sizes vary."""
        self.real[name] = tensor.detach()
        self.fake[name] = self.shapes.of(tensor, varying)

    def entry(self, name: str, function: Function, given: Iterable[str]) -> Entry:
        """A graph of what is known under these names."""
        names = [each for each in given if each in self.real]
        return Entry(
            name,
            function,
            {each: self.real[each] for each in names},
            {each: self.fake[each] for each in names},
        )
