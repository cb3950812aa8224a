"""One graph of a model with its cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import is_
from typing import Any

from torch import Tensor, fx, nn

from dni_fx.feedback import Feedback
from dni_fx.hooks import Hooks, numbers_of
from dni_fx.program import Capture, Key
from dni_fx.stage import Road
from passes import BoundarySpec, boundaries
from passes.boundary import moments


@dataclass(frozen=True)
class Marked:
    """A graph with its boundaries, as data and as code. It belongs to no tree: copies of a model share it.

    `admits` is the condition on the sizes of its inputs as code, for compilers to follow.
    """

    graph: fx.Graph
    specs: tuple[BoundarySpec, ...]
    whole: Callable[..., Any]
    admits: Callable[[dict[str, Tensor]], bool]

    def __deepcopy__(self, memo: dict[int, Any]) -> Marked:
        return self

    def module(self, tree: nn.Module) -> fx.GraphModule:
        """The graph over the modules of `tree`, which holds whatever fills the boundaries."""
        return fx.GraphModule(tree, self.graph)


@dataclass
class CutGraph:
    """One graph of the model with its cuts: whole, and stage by stage."""

    key: Key
    modules: list[nn.Module]
    capture: Capture
    marked: Marked
    road: Road
    hooks: list[Hooks]
    feedback: tuple[Feedback, ...] = ()

    @property
    def specs(self) -> tuple[BoundarySpec, ...]:
        """Its boundaries: those between stages, and those on edges back."""
        return (*self.marked.specs, *(edge.spec for edge in self.feedback if edge.spec is not None))

    def is_bound_to(self, modules: list[nn.Module]) -> bool:
        """Whether its stages run on these very modules: a layer may have been replaced since."""
        return len(self.modules) == len(modules) and all(map(is_, self.modules, modules))

    def has_its_hooks(self) -> bool:
        """Whether the modules that it goes through have just the hooks that they had at capture."""
        return numbers_of(self.hooks) == self.capture.hooks


def specs_of(gm: fx.GraphModule, classes: int, outputs: int) -> tuple[BoundarySpec, ...]:
    """The boundaries of a marked graph, each once; one in time is of the first stage that calls it.

    `classes` and `outputs` are for the latter: `mark-boundaries` tells the others.
    """
    found = {spec.name: spec for _, spec in boundaries(gm)}
    for node, spec in moments(gm):
        stage = next((each.meta["stage"] for each in (node, *node.users) if "stage" in each.meta), 0)
        told = replace(spec, producer=stage, consumers=(stage,), classes=classes, outputs=outputs)
        found.setdefault(spec.name, told)
    return tuple(found.values())


def misfits(specs: Iterable[BoundarySpec], filled: Mapping[str, BoundarySpec]) -> Iterator[str]:
    """The boundaries in time that had another number of values in an earlier graph."""
    for spec in specs:
        known = filled.get(spec.name, spec)
        if spec.group and len(known.values) != len(spec.values):
            now, before = (", ".join(value.anchor for value in each.values) for each in (spec, known))
            yield (
                f"what {spec.group} carries from one step to the next is {now}, and was {before}: a sequence "
                "that is too short does not show all of it; give decouple() an example as long as others"
            )
