"""One process of a run that has some of the stages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.distributed.post import Post
from dni_fx.errors import StageError
from dni_fx.randomness import Streams
from dni_fx.runtimes.alone import Alone
from dni_fx.runtimes.anew import Anew
from dni_fx.runtimes.base import Outcome
from dni_fx.runtimes.holding import Holding
from dni_fx.runtimes.led import Led
from dni_fx.runtimes.leg import Leg
from dni_fx.runtimes.likeness import of_graph
from dni_fx.runtimes.manners import Manners
from dni_fx.runtimes.needed import Needed
from dni_fx.runtimes.pieces import own_state
from dni_fx.runtimes.places import Places
from dni_fx.runtimes.recipe import Recipe
from dni_fx.runtimes.replicas import Replicas
from dni_fx.runtimes.route import Route
from dni_fx.runtimes.shards import Shards
from dni_fx.runtimes.start import Start
from dni_fx.runtimes.tied import Tied
from dni_fx.runtimes.walk import Manner
from dni_fx.runtimes.whole import Whole
from passes.switches import switches_kept


class Member(Led):
    """The runtime at work in one process. `legs` are the steps that not all have answered yet."""

    def __init__(self, cut: Decoupled, recipe: Recipe, runtime: Manners, world: Post) -> None:
        super().__init__(cut, recipe, world, runtime.lag + 1)
        self.runtime = runtime
        self.anew = Anew(world)
        self.replicas = Replicas(runtime.replicas, world)
        self.post = world.among(self.replicas.pipeline)
        self.legs: deque[Leg] = deque()
        self.number, self._gathered = 0, -1  # the steps begun, and at which the model was whole
        self.holding, self.start = Holding(cut), Start(cut, self.updates, world)
        self.shards = Shards(cut, self.replicas, runtime.shards)
        self.updates.moved = self.shards.moved
        self.needed = Needed()
        self._ties: list[Tied] = []
        Places(cut, [world.device]).gather(world.device)

    @property
    @override
    def has_loss(self) -> bool:
        return self.post.rank == self.post.size - 1

    @override
    def meant(self, order: str, details: Any) -> Callable[[int], Any]:
        if order != "batch":
            return super().meant(order, details)
        needed = self.needed.of(details, self.share(details))
        return lambda other: needed(other % self.post.size)

    @override
    def share(self, parts: Any) -> Any:
        return self.replicas.share(parts)

    @override
    def step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        try:
            return self._step(args, kwargs, target, context)
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self.shards.end()

    def _step(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any, context: Tensor | None
    ) -> Outcome:
        self._refuse()
        call = self.opened(args, kwargs)
        graph = self.settled(call, self._capturing, self.runtime.name)
        self.anew.settle(self.number)
        tied = self._tied(graph, context is not None)
        self.start.give([each.route for each in self._ties], self.number)
        self.shards.cover(tied.route)
        self.shards.begin()
        if self.holding.is_whole:
            self.holding.let_go([each.route.graph for each in self._ties], tied.route.within)
        tied.take(self.number - self.runtime.lag, more=not self.runtime.deterministic)
        self.needed.note(
            (args, kwargs, target), call, tied.route, cutting_of(self.cut).context, context is not None
        )
        self.number += 1
        outcome = self._run(tied, call, target, context)
        self._catch_up(self.runtime.lag)
        return outcome

    def _run(self, tied: Tied, call: Call, target: Any, context: Tensor | None) -> Outcome:
        route, cutting = tied.route, cutting_of(self.cut)
        due = self.due(route.graph, route.within)
        with self.updates.batch(), switches_kept(), cutting.step.coming_late(self._late(route)):
            with self.updates.autocast():
                cutting.begin(call, context)
                passage = cutting.passage(route.graph, None)
                leaves = passage.enter(call.leaves, as_leaves=True)
            values = dict(zip(route.graph.road.split.inputs, leaves, strict=True))
            seed = f"{self.runtime.seed}" + f", {self.replicas.number}" * bool(self.replicas.number)
            streams, everything = Streams(seed, cutting.step.number), set(range(route.loss))
            manner = Manner(due, everything, passage, streams=streams, within=route.within)
            leg = Leg(self, route.graph, values, manner, route, self.post, self.number, self.shards)
            leg.postpones = self.replicas.count > 1
            versions = {name: buffer._version for name, buffer in route.common_buffers.items()}
            outcome = leg.run(target)
            route.refuse_written(versions)
            if self.updates.is_due:
                tied.collect(self.number)
                self.replicas.average(self._moved(leg.postponed))
                for name in leg.postponed:
                    self.updates.step(name)
                tied.spread(self.number)
        self.legs.append(leg)
        return outcome

    def _late(self, route: Route) -> frozenset[str]:
        """The boundaries whose truth may come in a later step."""
        specs = route.graph.marked.specs if self.runtime.lag else ()
        there = {at for at, home in enumerate(route.homes) if home != route.rank}
        return frozenset(spec.name for spec in specs if there.intersection(spec.consumers))

    def _catch_up(self, most: int) -> None:
        """Wait until no more than so many steps are not answered; take in what else has come."""
        while len(self.legs) > most:
            self.legs.popleft().answered(wait=True)
        if not self.runtime.deterministic:
            while self.legs and self.legs[0].answered(wait=False):
                self.legs.popleft()

    @contextmanager
    def _capturing(self) -> Generator[None]:
        """Inside, the whole model is there for a new graph to be made of it."""
        self.anew.meet(self.number)
        if self._ties:
            self._gather(alone=False)
        yield

    def _tied(self, graph: CutGraph, shows_labels: bool) -> Tied:
        for known in self._ties:
            if known.route.graph is graph:
                return known
        if graph.capture.ways:
            raise StageError(
                "the code of the model branches on data, and no process of several has all that is needed to "
                "tell which way it goes. Use the local runtime, or torch.where in the place of the branch."
            )
        self._refuse()  # which knows of synthesizers now
        route = Route(graph, self.post.rank, self.post.size)
        route.refuse_other_owners(known.route for known in self._ties)
        self.world.agree(f"graph {self.number}", of_graph(self.cut, graph, shows_labels))
        self.settle()
        self._ties.append(made := Tied(route, self.post))
        return made

    def _refuse(self) -> None:
        self.refuse_true_gradients(self.runtime.name)
        if carry := cutting_of(self.cut).carry:
            raise StageError(
                f"the distributed runtime carries no state ({', '.join(carry.paths)}) from step to step: use "
                "local, or decouple without carry= and pass the state in by yourself."
            )
        found = dnis(self.cut).items()
        hears = [name for name, dni in found if dni.synthesizer.needs == "loss" or not dni.interface.lr]
        if hears:
            raise StageError(
                "the distributed runtime tells no synthesizer the loss of a step and moves none by your "
                f"optimizer, and these want it so: {', '.join(hears)}. Choose another, with an lr above 0."
            )

    def _moved(self, names: Iterable[str]) -> list[nn.Parameter]:
        """What these optimizers move of which this process has the whole, in the order of all replicas."""
        moved = [each for name in sorted(names) for each in self.updates.owned[name].parameters.values()]
        return [each for each in moved if not self.shards.moved.is_part(each)]  # which have the mean already

    @override
    def settle(self) -> None:
        self._catch_up(0)
        for tied in self._ties:
            tied.take(self.number, more=False)

    @override
    def flush(self) -> None:
        self.lead("flush")
        self.settle()
        self._gathered = -1
        waiting = self.updates.batches
        tied = [each for each in self._ties if waiting]
        for each in tied:
            each.collect(self.number)
        if waiting:
            self.shards.begin()
            self.replicas.average(self._moved(self.updates.owned))
        self.updates.flush()
        for each in tied:
            each.spread(self.number)
            each.take(self.number, more=False)

    @override
    def gather(self, alone: bool = False) -> None:
        self.lead("gather", alone)
        self._gather(alone)

    def _gather(self, alone: bool) -> None:
        self.settle()
        if self.start.is_due:
            None if alone else self.start.give_all(self.number)
        if self.start.is_due or (alone and self._gathered == self.number):
            return
        self._gathered = self.number
        if not (alone and self.world.rank):
            self.holding.take()
        self._adopt(alone)
        for at, tied in enumerate(self._ties):
            if not (alone and self.replicas.number):
                Whole(self.cut, tied.route, self.post).gather(f"whole {self.number} {at}", alone)

    @override
    def end_epoch(self, loss: float) -> None:
        self.lead("epoch", loss)
        super().end_epoch(loss)

    @override
    def pieces(self, alone: bool = False) -> Iterator[dict[str, Any]]:
        self.lead("keep")
        self.settle()
        topic = f"piece {self.number}"
        if self.start.is_due:  # what there is, the first process has
            nothing: dict[str, Any] = {"model": {}, "optimizers": {}}
            gathered = self.world.collected if alone else self.world.exchanged
            yield from gathered(topic, next(super().pieces()) if self.leads else nothing)
            return
        self._adopt(alone)
        optimizers = self.shards.moved.gathered(self.updates.optimizers_state(), alone)
        if not alone:
            yield from self.post.exchanged(topic, self._piece(optimizers))
        elif not self.replicas.number:
            yield from self.post.collected(topic, self._piece(optimizers))

    def _piece(self, optimizers: dict[str, Any]) -> dict[str, Any]:
        """What of the state of the run this process has; what is nobody's is the first one's."""
        if self.post.rank:
            optimizers = {name: optimizers[name] for name in self.updates.owned}
        model = own_state(self.cut, [tied.route for tied in self._ties], self.post.rank)
        return {"model": model, "optimizers": optimizers}

    def _adopt(self, alone: bool) -> None:
        """Have what the first of several replicas has trained of its stages in the others of them."""
        self.shards.fill(alone)
        for at, tied in enumerate(self._ties):
            Whole(self.cut, tied.route, self.post).adopt(
                self.replicas.post, f"mine {self.number} {at}", self.shards.originals
            )

    @override
    @contextmanager
    def unmoved(self) -> Generator[None]:
        before = Alone(self.updates.owned)
        yield
        if not self.start.is_due:  # else they have gone back to a state, which others get, too
            before.refuse_changes()

    @override
    def renew(self) -> None:
        self.settle()
        self.updates.forget()  # the first process does, and none waits for gradients that it has not
        self.reports.begin()
        self.holding.take()
        self.shards.renew()
        self._gathered = -1
        self.start.renew()
