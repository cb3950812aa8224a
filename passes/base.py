"""What a pass is, and how passes run one after another."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

from torch import fx

from passes.errors import GraphError, InvalidGraphError, PostconditionError, PreconditionError
from passes.named import Named


@dataclass(frozen=True)
class Pass(Named):
    """One named change to a graph, made in place.

    A subclass is final: it sets `name`, declares its options as fields, implements
    `apply`, and may override `requires` and `ensures`. It overrides nothing else.
    """

    def requires(self, gm: fx.GraphModule) -> Iterable[str]:
        """Say what is wrong with the graph coming in. Nothing, by default."""
        return ()

    @abc.abstractmethod
    def apply(self, gm: fx.GraphModule) -> bool:
        """Change `gm` in place. Return whether anything changed."""

    def ensures(self, gm: fx.GraphModule) -> Iterable[str]:
        """Say what is wrong with the graph going out. Nothing, by default."""
        return ()

    @final
    def __call__(self, gm: fx.GraphModule) -> bool:
        """Check, apply, check again. Return whether anything changed.

        Raises:
            PreconditionError: the graph is not one this pass takes; nothing was changed.
            InvalidGraphError, PostconditionError: the pass has a bug.
        """
        PreconditionError.unless_none(f"cannot run {self}", self.requires(gm))
        changed = self.apply(gm)
        gm.recompile()
        InvalidGraphError.unless_none(f"{self} left an invalid graph", _lint(gm))
        PostconditionError.unless_none(f"{self} broke its promise", self.ensures(gm))
        return changed


Observer = Callable[[Pass, fx.GraphModule, bool], None]


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. `run` works on a copy; parameters are shared, never copied."""

    passes: tuple[Pass, ...]

    def __str__(self) -> str:
        return " then ".join(map(str, self.passes))

    def run(self, gm: fx.GraphModule, observe: Observer | None = None) -> fx.GraphModule:
        """Apply every pass to a copy of `gm` and return the copy.

        Raises:
            GraphError: a pass refused or broke the graph; a note says which and when.
        """
        gm = copy_graph(gm)
        for position, each in enumerate(self.passes, start=1):
            try:
                changed = each(gm)
            except GraphError as error:
                error.add_note(f"in pass {position} of {len(self.passes)}: {self}")
                raise
            if observe is not None:
                observe(each, gm, changed)
        return gm


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A graph of its own over the same parameters and buffers.

    Submodules that no node refers to are left behind: fx copies only what is used.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    graph.set_codegen(gm.graph._codegen)  # pyright: ignore[reportPrivateUsage]
    return fx.GraphModule(gm, graph, type(gm).__name__)


def _lint(gm: fx.GraphModule) -> Iterable[str]:
    try:
        gm.graph.lint()
    except (RuntimeError, ValueError) as error:
        return (str(error).splitlines()[0],)
    return ()
