"""What one process does in one step, for its own stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from dni_fx.cut_graph import CutGraph
from dni_fx.distributed.post import Post
from dni_fx.gradients import added
from dni_fx.runtimes.base import Outcome, Worker
from dni_fx.runtimes.route import Route
from dni_fx.runtimes.shards import Shards
from dni_fx.runtimes.walk import Held, Manner, Walk
from dni_fx.segments import Leaving, Segment
from dni_fx.stage import carries_gradient, detached


class Share(NamedTuple):
    """A gradient that one of its readers has for a value, and when that one has it: the loss comes last."""

    waited: bool
    stage: int
    gradient: Tensor | None


class Leg(Walk):
    """A walk through the stages of one rank. It lives on until the ranks behind have answered.

    Values go to every rank that reads them as soon as they are there. A rank answers a stage of another one
    when all of its own stages that read from it have run backward: with the true gradients, of values whose
    gradient is wanted.

    `postponed` are optimizers that others have still gradients for; with `postpones`, all of them. Stages are
    run with the weights of `shards`.
    """

    def __init__(
        self,
        worker: Worker,
        graph: CutGraph,
        values: dict[str, Any],
        manner: Manner,
        route: Route,
        post: Post,
        number: int,
        shards: Shards,
    ) -> None:
        super().__init__(worker, graph, values, manner)
        self.route, self.post, self.number, self.shards = route, post, number, shards
        self.segments = tuple(replace(each, computes=shards.run) for each in self.segments)
        self.shares: defaultdict[str, list[Share]] = defaultdict(list)
        self.roots: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        self.open = {stage: set(readers) for stage, readers in route.readers.items()}
        self.unanswered: set[tuple[int, int]] = set()
        self._received: set[int] = set()
        self.postponed: list[str] = []
        self.postpones = False
        own = set(route.within)
        for spec in graph.marked.specs:
            if spec.producer not in own and not spec.group:
                self.taught.discard(spec.name)  # until its value says so
                self.readers[spec.name] = set(spec.consumers) & own

    @override
    def run(self, target: Any) -> Outcome:
        """Run the stages of this rank forward and backward; only the last rank has a loss and outputs."""
        if self.route.is_last:
            outcome = super().run(target)
        else:
            self._walk()
            self._end_by_answers()
            self.passage.close(self.active)
            outcome = Outcome(torch.tensor(torch.nan), None)
        self.values = {}
        return outcome

    def answered(self, wait: bool) -> bool:
        """Take in what other ranks have answered; returns whether all have.

        Raises:
            StageError: one never will.
        """
        for stage, rank in sorted(self.unanswered):
            if wait or self.post.there(rank, self._topic("answer", stage)):
                self._accept(stage, rank)
        return not self.unanswered

    @override
    def _walk(self) -> None:
        super()._walk()
        for stage in self.route.needs.get(self.route.loss, ()):
            self._receive(stage)

    @override
    def _train(self, segment: Segment) -> None:
        for stage in segment.stages:
            for source in self.route.needs[stage.index]:
                self._receive(source)
        super()._train(segment)

    def _receive(self, source: int) -> None:
        """Take in what a stage of another rank has sent."""
        if source in self._received:
            return
        self._received.add(source)
        values, wanted = self.post.take(self.route.homes[source], self._topic("values", source))
        for name in wanted:
            values[name].requires_grad_()
        self.values |= values
        self.taught.update(self.boundary[name] for name in wanted if name in self.boundary)
        if any(name in self.boundary and name not in wanted for name in values):
            self.spared = True  # the loss may hang on nothing here

    @override
    def _may_end(self, segment: Segment) -> bool:
        awaits = any(self._is_locked_to_others(name) for s in segment.stages for name in s.crossings)
        return super()._may_end(segment) and not awaits

    def _is_locked_to_others(self, name: str) -> bool:
        dni = self.dnis[name]
        return dni.mix != 0 and any(self.route.homes[at] != self.route.rank for at in dni.spec.consumers)

    @override
    def _hand_on(self, segment: Segment, values: dict[str, Any], leaving: Leaving, keep: bool) -> None:
        super()._hand_on(segment, values, leaving, keep)
        for stage in segment.stages:
            for rank, names in self.route.sends.get(stage.index, {}).items():
                sent = {name: self._kept(values[name]) for name in names}
                wanted = [name for name in names if self._is_wanted(name, values[name])]
                self.post.send(rank, self._topic("values", stage.index), (sent, wanted))
                self.unanswered.add((stage.index, rank))
                exact = [name for name in wanted if name not in leaving.below]
                self.roots[stage.index] |= {name: values[name] for name in exact}

    def _kept(self, value: Any) -> Any:
        """A value as it is now, whatever this rank does with its own memory while it is on the way."""
        sent = detached(value)
        if not isinstance(sent, Tensor) or sent.untyped_storage().data_ptr() not in self.route.memory:
            return sent
        return sent.clone()

    def _is_wanted(self, name: str, value: object) -> bool:
        """Whether the gradient of a value is to come back."""
        if (boundary := self.boundary.get(name)) is None:
            return carries_gradient(value)  # an output of the model
        return boundary in self.taught or self.dnis[boundary].mix != 0

    def _end_by_answers(self) -> None:
        """Run backward what waits for gradients of other ranks."""
        for held in self.held:
            for stage in held.segment.stages:
                for rank in self.route.sends.get(stage.index, {}):
                    self._accept(stage.index, rank)
                for name, value in self.roots.pop(stage.index, {}).items():
                    # As one graph would have it: the last reader's gradient is there first.
                    gradient = _summed(reversed(sorted(self.shares.pop(name, []), key=_order)))
                    held.send([value], [gradient]) if gradient is not None else None
        sent = [value for held in self.held for value in held.sent]
        if sent:
            torch.autograd.backward(sent, [up for held in self.held for up in held.upward])
        for held in self.held:
            self._finish(held)

    @override
    def _end(self, loss: Tensor, result: Sequence[Any]) -> None:
        outputs = self._outputs_of_others()
        if self.held or not outputs:
            super()._end(loss, result)
        else:
            self.worker.updates.backward([loss], [None])
        for name, value in outputs.items():
            self.shares[name].append(Share(True, self.route.loss, value.grad))
        self._close({self.route.loss})

    def _outputs_of_others(self) -> dict[str, Tensor]:
        """Outputs that other ranks have made and want the gradient of."""
        sources = set(self.route.needs.get(self.route.loss, ()))
        return {
            name: self.values[name]
            for name in self.route.reads[self.route.loss]
            if self.route.writers.get(name) in sources and carries_gradient(self.values[name])
        }

    @override
    def _update(self, stage: int) -> None:
        for name in self.due.get(stage, ()):
            owned = self.worker.updates.owned[name]
            if self.postpones or any(each in self.route.shared for each in owned.parameters):
                self.postponed.append(name)  # others have still to say what they have for it
            else:
                self.worker.updates.step(name)

    @override
    def _finish(self, held: Held) -> None:
        for stage in held.segment.stages:
            self.shards.rest(stage)
        super()._finish(held)
        self._close({stage.index for stage in held.segment.stages})

    def _close(self, here: set[int]) -> None:
        """Answer the stages of other ranks from which nothing but these has still to be heard of."""
        for source in [source for source, readers in self.open.items() if readers & here]:
            self.open[source] -= here
            if not self.open[source]:
                written = self.graph.road.stages[source].code.part.writes
                told = {
                    name: [tuple(each) for each in self.shares.pop(name)]
                    for name in written
                    if name in self.shares
                }
                self.post.send(self.route.homes[source], self._topic("answer", source), told)

    @override
    def _hear_of(self, name: str, held: Held) -> None:
        for part in self.parts[name]:
            gradient = held.leaves[part].grad if part in held.leaves else None
            self.shares[part].append(Share(held in self.held, held.segment.stages[-1].index, gradient))

    @override
    def _answer(self, name: str) -> None:
        if self.dnis[name].spec.producer not in self.route.within:
            return  # that is another rank's
        true = tuple(_summed(sorted(self.shares.pop(part, []), key=_order)) for part in self.parts[name])
        self._learn(name, self.guesses.pop(name), true)

    def _accept(self, stage: int, rank: int) -> None:
        """Take in what a rank has answered a stage of this one."""
        self.unanswered.discard((stage, rank))
        for name, shares in self.post.take(rank, self._topic("answer", stage)).items():
            self.shares[name] += [Share(*each) for each in shares]
        there = {at for at, home in enumerate(self.route.homes) if home == rank}
        for name in self.graph.road.stages[stage].crossings:
            if self.readers.get(name, set()) & there:
                self.readers[name] -= there
                if name in self.taught and not self.readers[name]:
                    self._answer(name)

    def _topic(self, what: str, stage: int) -> str:
        return f"{what} {stage} {self.number}"


def _order(share: Share) -> tuple[bool, int]:
    return share[:2]


def _summed(shares: Iterable[Share]) -> Tensor | None:
    """The sum of gradients in this order; None of nothing."""
    total: Tensor | None = None
    for share in shares:
        total = added([total, share.gradient])
    return total
