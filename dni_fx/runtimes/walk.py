"""One step through all stages, each of which is updated as soon as its gradients are there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.carry import Passage
from dni_fx.cut_graph import CutGraph
from dni_fx.decoupled import dnis
from dni_fx.dni import DNI
from dni_fx.gradients import added
from dni_fx.randomness import NO_STREAMS, Streams
from dni_fx.runtimes.aside import Aside, AtOnce
from dni_fx.runtimes.base import Outcome, Worker
from dni_fx.segments import Leaving, Segment, segments
from dni_fx.stage import detached
from dni_fx.step import Synthesis
from passes.values import value_of


@dataclass
class Held:
    """A segment that has run forward: what it has read, what it has sent, and what goes up there."""

    segment: Segment
    leaves: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    sent: list[Tensor] = field(default_factory=list[Tensor])
    upward: list[Tensor] = field(default_factory=list[Tensor])

    def send(self, values: Sequence[Tensor], upward: Sequence[Tensor | None]) -> None:
        """Take in values that leave it, and what goes up there; None is zeros.

        Values that hang on nothing that learns in this step are left out.
        """
        for value, up in zip(values, upward, strict=True):
            if value.requires_grad:
                self.sent.append(value)
                self.upward.append(torch.zeros_like(value) if up is None else up)

    def run_backward(self) -> None:
        """Send gradients from what has left it to what it has read, and to its parameters."""
        if self.sent:
            torch.autograd.backward(self.sent, self.upward)


@dataclass(frozen=True)
class Manner:
    """How a step is taken: which stages are `chosen` to be updated, and what is done `aside`.

    `due` names the optimizers that step with each stage, `places` the device of each stage that has one, and
    `passage` is the way of carried state. Only stages `within` are run here, if that is given.
    If it `predicts`, stages read what predictors tell of the model's inputs in the place of what other
    stages send, from which the predictors learn: then no stage needs another one of this step.
    """

    due: Mapping[int, Sequence[str]]
    chosen: Set[int]
    passage: Passage
    predicts: bool = False
    aside: Aside = field(default_factory=AtOnce)
    places: Mapping[int, torch.device] = field(default_factory=dict[int, torch.device])
    streams: Streams = NO_STREAMS
    within: range | None = None


class Walk:
    """One step through all stages of a graph, of which the chosen ones are updated.

    Stages of one segment are updated together, or not at all. The others run forward only. A synthesizer
    learns if all stages that read from its boundary are updated: only then the whole gradient is there.

    Backward passes and updates are done aside: stages run forward meanwhile, which needs neither. `guesses`,
    `arrived` and `readers` are changed there alone.
    """

    def __init__(self, worker: Worker, graph: CutGraph, values: dict[str, Any], manner: Manner) -> None:
        self.worker = worker
        self.graph = graph
        self.values = values
        self.dnis = dnis(worker.cut)
        self.segments = tuple(segments(graph.road, self.dnis, manner.places, manner.within))
        together = [[stage.index for stage in segment.stages] for segment in self.segments]
        self.active = {index for indices in together if indices[-1] in manner.chosen for index in indices}
        self.active |= set(manner.chosen).difference(manner.within or manner.chosen)  # elsewhere
        specs = [spec for spec in graph.marked.specs if not spec.group]  # the others are inside of stages
        self.readers: dict[str, set[int]] = {
            spec.name: set(spec.consumers) for spec in specs if not self.dnis[spec.name].mix
        }
        self.learning = {spec.name for spec in graph.marked.specs if self.active.issuperset(spec.consumers)}
        self.taught = {name for name in self.learning if self.dnis[name].wants_truth}
        self.parts = {spec.name: spec.names for spec in specs}
        self.boundary = {part: name for name, parts in self.parts.items() for part in parts}
        self.guesses: dict[str, Synthesis] = {}
        self.arrived: dict[str, Tensor | None] = {}
        self.held: list[Held] = []
        self.spared = False
        self.due, self.predicts, self.aside = manner.due, manner.predicts, manner.aside
        self.passage, self.streams = manner.passage, manner.streams
        self.inputs = _samples(graph, values) if manner.predicts else []
        self.predicted: dict[str, Tensor] = {}

    def run(self, target: Any) -> Outcome:
        """Run all stages forward, and backward those that are updated; the loss comes last."""
        try:
            self._walk()
            self.aside.join()
        finally:
            self.aside.drop()
        result = self.graph.road.result(self.values)
        with self.worker.updates.autocast():
            outputs = pytree.tree_unflatten(self.passage.leave(result), self.graph.capture.out_spec)
            loss = self.worker.recipe.loss_of(outputs, target)
        for dni in self.dnis.values():
            dni.hear(loss)
        self._end(loss, result)
        self.passage.close(self.active)
        for dni in self.dnis.values():
            dni.step()  # those that had to hear the loss first
        self._step_free_learners()
        for stage in self.graph.road.stages:
            for name in self.due.get(stage.index, ()) if stage.index not in self.active else ():
                self.worker.updates.catch_up(name)
        return Outcome(loss.detach(), outputs)

    def _walk(self) -> None:
        """Run all stages forward."""
        for segment in self.segments:
            if segment.stages[-1].index in self.active:
                self._train(segment)
            else:
                self._pass_on(segment)
            for name in itertools.chain.from_iterable(segment.drops):
                self.values.pop(name, None)

    def _end(self, loss: Tensor, result: Sequence[Any]) -> None:
        """Run backward from the loss through the segments that waited for it."""
        if not self.held:
            return
        sent = [value for held in self.held for value in held.sent]
        upward = [up for held in self.held for up in held.upward]
        if loss.requires_grad or not self.spared:
            self.worker.updates.backward([loss, *sent], [None, *upward])
        else:
            for value, up in self.passage.unsent(result):
                sent.append(value)
                upward.append(up)
            if sent:
                torch.autograd.backward(sent, upward)
        for held in self.held:
            self._finish(held)

    def _train(self, segment: Segment) -> None:
        """Run a segment forward and, if it need not wait for the loss, backward, and step."""
        held, leaving = Held(segment), Leaving(keeps=self.predicts)
        values, guesses = self.values | self._told(segment), dict[str, Synthesis]()
        for name in segment.read_live(values):
            if self.boundary.get(name) in self.taught:
                values[name] = held.leaves[name] = values[name].detach().requires_grad_()
            elif name in self.boundary:
                values[name] = values[name].detach()  # nobody asks for its gradient
                self.spared = True
        with self.worker.updates.autocast():
            segment.run(values, self.dnis, leaving, self.streams)
            held.leaves |= leaving.below
            for name, sent in leaving.values.items():
                guesses[name], upward = self.dnis[name].guess_up(sent, name in self.learning)
                held.send(sent, upward)
        self.aside.do(partial(self._keep, guesses))
        if self._may_end(segment):
            self._hand_on(segment, values, leaving, keep=False)
            self.aside.do(partial(self._end_early, held))
            if segment.may_reenter:
                self.aside.join()  # what is computed again for backward may draw random numbers
        else:
            self._hand_on(segment, values, leaving, keep=True)
            self.held.append(held)

    def _pass_on(self, segment: Segment) -> None:
        """Run a segment forward only; its synthesizers guess where they are to learn from the guess."""
        values, leaving = self.values | self._told(segment), Leaving(keeps=self.predicts)
        guesses: dict[str, Synthesis] = {}
        self.spared = True  # the loss may hang on stages that are not updated alone
        with self.worker.updates.autocast():
            with torch.no_grad():
                segment.run(values, self.dnis, leaving, self.streams)
            for name in leaving.values.keys() & self.learning:
                sent = tuple(value.detach() for value in leaving.values[name])
                guesses[name] = self.dnis[name].synthesize(sent)
        self.aside.do(partial(self._keep, guesses))
        self._hand_on(segment, values, leaving, keep=False)

    def _keep(self, guesses: Mapping[str, Synthesis]) -> None:
        """Keep guesses until the truth is there; what waits for none is learned from at once."""
        for name, guess in guesses.items():
            if name in self.taught:
                self.guesses[name] = guess
            else:
                self._learn(name, guess, (None,) * len(self.parts[name]))

    def _learn(self, name: str, guess: Synthesis, true: tuple[Tensor | None, ...]) -> None:
        """Learn from a guess and, if it was asked for, from the truth."""
        self.dnis[name].regress(guess, true)
        self._step(self.dnis[name])

    def _told(self, segment: Segment) -> dict[str, Tensor]:
        """The predictions that a segment reads."""
        names = {name for stage in segment.stages for name in stage.code.part.reads}
        return {name: self.predicted[name].requires_grad_() for name in names & self.predicted.keys()}

    def _hand_on(self, segment: Segment, values: dict[str, Any], leaving: Leaving, keep: bool) -> None:
        """Put what a segment has written where later ones read it; boundaries are leaves to them."""
        for name, real in (leaving.values | leaving.passed).items() if self.predicts else ():
            self._predict(name, real, segment.stages[-1].index in self.active)
        written = {name: value for name, value in values.items() if name not in self.values}
        crossing = {
            name: written[name].detach().requires_grad_() for name in leaving.below if name in written
        }
        if not keep:
            written = {name: detached(value) for name, value in written.items()}
        self.values |= written | crossing

    def _predict(self, name: str, real: tuple[Tensor, ...], learns: bool) -> None:
        """Predict what goes through a boundary, and learn from what has just been computed."""
        dni = self.dnis[name]
        if dni.predictor.networks is None:
            dni.predictor.fill(dni.spec, dni.interface, self.inputs, real[0].device)
        told = dni.predictor.predict(self.inputs, real, learns)
        self.predicted |= zip(self.parts[name], told, strict=True)

    def _end_early(self, held: Held) -> None:
        """Run a segment backward before the loss is there."""
        held.run_backward()
        self._finish(held)

    def _may_end(self, segment: Segment) -> bool:
        """Whether a segment may run backward as soon as it has run forward."""
        return segment.is_releasable

    def _update(self, stage: int) -> None:
        """Step the optimizers that are due with a stage."""
        for name in self.due.get(stage, ()):
            self.worker.updates.step(name)

    def _finish(self, held: Held) -> None:
        """Update stages that have their gradients; teach the synthesizers whose readers have all answered."""
        stages = held.segment.stages
        for stage in stages:
            self._update(stage.index)
            for name in stage.crossings:
                if name not in self.readers:  # it has learned in the backward pass of the segment
                    self._step(self.dnis[name])
        here = {stage.index for stage in stages}
        for name in [name for name in self.parts if self.readers.get(name, set()) & here]:
            if name in self.taught:
                self._hear_of(name, held)
            self.readers[name] -= here
            if name in self.taught and not self.readers[name]:
                self._answer(name)

    def _answer(self, name: str) -> None:
        """Teach a synthesizer, all of whose readers have answered."""
        true = tuple(self.arrived.pop(part) for part in self.parts[name])
        self._learn(name, self.guesses.pop(name), true)

    def _hear_of(self, name: str, held: Held) -> None:
        """Add what has arrived at a boundary from one segment to what came from others."""
        for part in self.parts[name]:
            gradient = held.leaves[part].grad if part in held.leaves else None
            self.arrived[part] = added([self.arrived.get(part), gradient])

    def _step(self, dni: DNI) -> None:
        """Update a synthesizer, unless it has still to learn from the loss by the weights it guessed by."""
        if not dni.waits_for_loss:
            dni.step()

    def _step_free_learners(self) -> None:
        """Step the synthesizers that have no optimizer of their own; others may have learned earlier."""
        updates = self.worker.updates
        for name, dni in self.dnis.items():
            if dni.optimizer is None:
                carried = dni.spec.delay and self.active.issuperset(dni.spec.consumers)
                take = updates.step if name in self.learning or carried else updates.catch_up
                take(f"dni.{name}")


def _samples(graph: CutGraph, values: dict[str, Any]) -> list[Tensor]:
    """Those of the model's inputs that have the batch in front."""
    nodes = [node for node in graph.marked.graph.nodes if node.op == "placeholder"]
    both = zip(nodes, graph.road.split.inputs, strict=True)
    known = [(value_of(node), values[name]) for node, name in both]
    return [value for spec, value in known if spec.shape and spec.batch_dim == 0]
