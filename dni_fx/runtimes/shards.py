"""Weights, gradients and optimizers of stages that several replicas share: each keeps a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from dni_fx.decoupled import Decoupled
from dni_fx.errors import StageError
from dni_fx.runtimes.holding import alone_in_memory
from dni_fx.runtimes.moved import Moved, Undivided
from dni_fx.runtimes.replicas import Replicas
from dni_fx.runtimes.route import Route
from dni_fx.stage import Stage

if TYPE_CHECKING:
    from dni_fx.runtimes.sharded import Sharded


class Shards:
    """What of its stages this process shares with its replicas: nothing, if that is not `wanted`.

    A parameter is shared if it is trained, one stage alone reads it, and it has a row for each replica. What
    is not shared is whole in all replicas. `moved` is what optimizers then move.
    """

    def __init__(self, cut: Decoupled, replicas: Replicas, wanted: bool) -> None:
        self.cut = cut
        self.replicas = replicas
        self.moved: Moved = Undivided()
        self.originals: dict[nn.Parameter, Sharded] = {}
        self._make: Callable[[list[nn.Parameter], int], Sharded] | None = None
        self._used: dict[Stage, list[Sharded]] = {}
        self._seen: set[nn.Parameter] = set()
        if wanted:
            self._share()

    def _share(self) -> None:
        from dni_fx.runtimes.parts import Parts  # these take half a second, and few runs want them
        from dni_fx.runtimes.sharded import Sharded

        parts, mesh = Parts(self.replicas.post), self.replicas.mesh_of_shards()
        self.moved = parts

        def make(parameters: list[nn.Parameter], stage: int) -> Sharded:
            made = Sharded(parameters, mesh, self.replicas.post, stage, len(self.all))
            parts.add(made)
            return made

        self._make = make

    @property
    def all(self) -> list[Sharded]:
        """What is shared, in the order in which it was found."""
        return list(dict.fromkeys(self.originals.values()))

    def cover(self, route: Route) -> None:
        """Share what the stages of a new graph read and those of others did not.

        Raises:
            StageError: what is shared for one stage is read by others of this graph.
        """
        if self._make is None:
            return
        stages = route.graph.road.stages
        readers = Counter(each for stage in stages for each in stage.parameters())
        for stage in stages[route.within.start : route.within.stop]:
            fresh = [each for each in stage.parameters() if each not in self._seen]
            self._seen |= set(fresh)
            mine = [each for each in fresh if readers[each] == 1 and self._can_be_shared(each)]
            alone = set(alone_in_memory(self.cut, mine))
            for kind in dict.fromkeys(each.dtype for each in mine):
                alike = [each for each in mine if each in alone and each.dtype == kind]
                made = [self._make(alike, stage.index)] if alike else []
                self.originals |= {each: sharded for sharded in made for each in alike}
            self._used[stage] = list(
                dict.fromkeys(self.originals[each] for each in stage.parameters() if each in self.originals)
            )
        self._refuse_several(route)

    def _can_be_shared(self, parameter: nn.Parameter) -> bool:
        is_real = parameter.requires_grad and parameter.is_floating_point()
        return (
            is_real
            and parameter.is_contiguous()
            and parameter.dim() > 0
            and len(parameter) >= self.replicas.count
        )

    def _refuse_several(self, route: Route) -> None:
        for sharded in self.all:
            both = [
                s.index
                for s in route.graph.road.stages
                if not {*s.parameters()}.isdisjoint(sharded.originals)
            ]
            if len(both) > 1:
                raise StageError(
                    f"stages {both} read in this call of the model what replicas share as weights of one "
                    "stage. Keep what reads them in one stage: together= in the policy. Or use no shards."
                )

    def run(self, stage: Stage, reads: list[Any]) -> dict[str, Any]:
        """What a stage writes, run with whole weights."""
        run: Callable[[], dict[str, Any]] = partial(stage.run, reads)
        for sharded in self._used.get(stage, ()):
            run = partial(sharded, run)
        return run()

    def rest(self, stage: Stage) -> None:
        """Let go of the whole weights of a stage that has run backward."""
        for sharded in self._used.get(stage, ()):
            sharded.rest()

    def begin(self) -> None:
        """Let go of all whole weights; what has been written to them is taken over."""
        for sharded in self.all:
            sharded.begin()

    def end(self) -> None:
        """Let go of whole weights of stages that have not run to the end."""
        for sharded in self.all:
            sharded.drop()

    def fill(self, alone: bool) -> None:
        """Have whole weights in all replicas, or `alone` in the first: all do it at once."""
        for sharded in self.all:
            sharded.fill(alone)

    def renew(self) -> None:
        """Have memory for whole weights, of any values until they are written."""
        for sharded in self.all:
            sharded.renew()
