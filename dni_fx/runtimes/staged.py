"""What runtimes have in common that run one stage after another and step each by itself."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn
from typing_extensions import override

from dni_fx.calls import Call, call_of
from dni_fx.carry import RESET
from dni_fx.cut_graph import CutGraph
from dni_fx.cutting import Around
from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.errors import StageError
from dni_fx.program import signature_of
from dni_fx.runtimes.base import Worker
from dni_fx.runtimes.recipe import Recipe
from passes.boundary import CONTAINER


class Staged(Worker):
    """A worker whose stages have an optimizer each."""

    def __init__(self, cut: Decoupled, recipe: Recipe) -> None:
        super().__init__(cut, recipe)
        self._last: tuple[CutGraph, dict[int, list[str]]] | None = None

    @override
    def prepare(self) -> None:
        self._last = None  # which stage reads what is known with a graph, and looked at anew for the next one

    def opened(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """This call of the model, its carried state hanging on no step before."""
        passed = {name: value for name, value in kwargs.items() if name != RESET}
        return cutting_of(self.cut).opened(self.cut, call_of(signature_of(self.cut), args, passed))

    def settled(self, call: Call, around: Around, name: str) -> CutGraph:
        """The graph for this call, made inside of `around`: a stage that has stepped cannot be taken back.

        Raises:
            StageError: its stages cannot be run one after another.
        """
        with self.updates.autocast():
            graph = cutting_of(self.cut).settled(self.cut, call, around)
        if not graph.road.split.in_order:
            raise StageError(
                f"the {name} runtime runs stage after stage, and by this plan that would draw random "
                "numbers or write to memory in another order than the model does. Use the backprop "
                "runtime, or a plan that a policy has made."
            )
        return graph

    def due(self, graph: CutGraph, within: range | None = None) -> dict[int, list[str]]:
        """The optimizers that step with each stage: none of their parameters is read in a later one.

        What no stage of this graph reads steps with the last one, if gradients of other batches wait there.
        Of stages `within` alone, what later ones read is moved by those.
        """
        if self._last is not None and self._last[0] is graph:
            return self._last[1]
        stages = graph.road.stages
        mine = stages if within is None else stages[within.start : within.stop]
        last = last_readers(graph)
        named: dict[int, dict[str, nn.Parameter]] = {}
        for stage in mine:
            read = stage.named_parameters().items()
            named[stage.index] = {name: each for name, each in read if last.get(each) == stage.index}
        everything = dict(self.cut.named_parameters())
        if within is None:
            self.updates.restore(everything)
        else:
            own = {each for parameters in named.values() for each in parameters.values()}
            self.updates.restore(everything, own, last.keys() - own)
        for index, parameters in named.items():
            self.updates.own(f"stage {index}", parameters)
        self.own_learners()
        last |= {self.updates.moved.of(each): at for each, at in last.items()}
        due: dict[int, list[str]] = defaultdict(list)
        for name, owned in self.updates.owned.items():
            if not name.startswith(f"{CONTAINER}."):
                read = [last[each] for each in owned.parameters.values() if each in last]
                due[max(read, default=mine[-1].index)].append(name)
        self._last = graph, due
        return due

    def refuse_true_gradients(self, name: str) -> None:
        """Do nothing if no boundary always passes the true gradient.

        Raises:
            StageError: some do.
        """
        locked = [each for each, dni in dnis(self.cut).items() if dni.synthesizer.exact or dni.interface.mix]
        if locked:
            raise StageError(
                f"the {name} runtime updates a stage before the true gradient is there, and these boundaries "
                f"send it up: {', '.join(locked)}. Use the backprop runtime, or mix=0 and a synthesizer that "
                "learns; warmup=N sends true gradients for a while."
            )


def last_readers(graph: CutGraph) -> dict[nn.Parameter, int]:
    """The last stage that reads each parameter which wants a gradient."""
    last: dict[nn.Parameter, int] = {}
    for stage in graph.road.stages:
        last |= {parameter: stage.index for parameter in stage.parameters() if parameter.requires_grad}
    return last
