"""The ways to train that are compared; each is a row of the tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch._functorch.config
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from dni_fx import decouple  # and all that it needs, once for all processes
from dni_fx.calls import call_of
from dni_fx.decoupled import Decoupled, cutting_of
from dni_fx.interface import INTERFACES
from dni_fx.program import signature_of
from dni_fx.runtimes import RUNTIMES, Recipe
from dni_fx.stage import Road
from passes import parse
from tests.benchmarks.learning.runs import loss_of

NAMES = ("backprop", "accumulate", "budget", "checkpoint", "drop-in", "local", "zero")
CUT = ("checkpoint", "drop-in", "local", "zero")
"""Those that go by stages."""


@dataclass(frozen=True)
class Choice:
    """What can be chosen besides: how cuts are filled, how exact methods save memory, the learning rate."""

    synthesizer: str = "local-head"
    interface: str = "dni"
    parts: int = 4
    budget: float = 0.25
    compiler: str = "aot_eager"
    lr: float = 1e-3


@dataclass(frozen=True)
class Way:
    """One row: a name, how many stages where it goes by stages, and what was chosen."""

    name: str
    stages: int = 1
    choice: Choice = Choice()

    def __str__(self) -> str:
        return f"{self.name}, {self.stages} stages" if self.name in CUT else self.name

    @property
    def key(self) -> str:
        """All that decides what it does, as text."""
        of = self.choice
        own = {
            "accumulate": f" parts={of.parts}",
            "budget": f" budget={of.budget} {of.compiler}",
            "drop-in": f" {of.synthesizer} {of.interface}",
            "local": f" {of.synthesizer} {of.interface}",
        }
        return f"{self}{own.get(self.name, '')} lr={of.lr}"

    def start(self, net: nn.Module, x: Tensor, classes: int) -> Trainer:
        """A trainer of this net, for batches such as `x`."""
        adam = partial(torch.optim.Adam, lr=self.choice.lr)
        match self.name:
            case "backprop":
                return Plain(net, adam)
            case "accumulate":
                return Plain(net, adam, parts=min(self.choice.parts, len(x)))
            case "budget":
                torch._functorch.config.activation_memory_budget = self.choice.budget
                return Plain(net, adam, torch.compile(net, backend=self.choice.compiler))
        synthesizer = self.choice.synthesizer if self.name in ("drop-in", "local") else "zero"
        cut = decouple(
            net,
            (x,),
            plan=f"balanced:stages={self.stages}",
            synthesizer=synthesizer,
            interface=replace(parse(self.choice.interface, INTERFACES), classes=classes),
        )
        match self.name:
            case "checkpoint":
                return Plain(net, adam, Checkpointed(cut))
            case "local":
                return Local(cut, adam)
        return Plain(cut, adam, labels=self.name == "drop-in")


def ways(names: Sequence[str], stages: Sequence[int], choice: Choice) -> list[Way]:
    """The rows of these names, those that go by stages once for each number of them.

    >>> [str(way) for way in ways(["backprop", "local"], [2, 4], Choice())]
    ['backprop', 'local, 2 stages', 'local, 4 stages']
    """
    return [Way(name, number, choice) for name in names for number in (stages if name in CUT else (1,))]


class Plain:
    """One backward pass and one optimizer, over one or several parts of a batch."""

    def __init__(
        self,
        net: nn.Module,
        adam: Callable[..., Optimizer],
        run: Callable[..., Tensor] | None = None,
        parts: int = 1,
        labels: bool = False,
    ) -> None:
        self.net, self.parts, self.labels = net, parts, labels
        self.run = net if run is None else run  # a compiled module asks for a length
        self.optimizers = [adam(net.parameters())]

    def step(self, x: Tensor, y: Tensor) -> None:
        """Train on one batch."""
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        for one, other in zip(x.chunk(self.parts), y.chunk(self.parts), strict=True):
            outputs = self.run(one, dni_context=other) if self.labels else self.run(one)
            (loss_of(outputs, other) * (len(one) / len(x))).backward()
        optimizer.step()


class Local:
    """The runtime `local`: every stage takes its step before the next one runs."""

    def __init__(self, cut: Decoupled, adam: Callable[..., Optimizer]) -> None:
        self.net = cut
        self.worker = parse("local", RUNTIMES).start(cut, Recipe(loss_of, adam))

    @property
    def optimizers(self) -> list[Optimizer]:
        """One for each stage; they are made in the first step."""
        return list(self.worker.updates.optimizers.values())

    def step(self, x: Tensor, y: Tensor) -> None:
        """Train on one batch."""
        self.worker.step((x,), {}, y, y)


Trainer = Plain | Local


class Checkpointed:
    """The stages of a cut net one after the other; what all but the last one compute is computed again.

    The last one's backward comes right after its forward: to check it would save nothing, and cost time.
    """

    def __init__(self, cut: Decoupled) -> None:
        self.cut = cut

    def __call__(self, x: Tensor) -> Tensor:
        call = call_of(signature_of(self.cut), (x,), {})
        graph = cutting_of(self.cut).settled(self.cut, call)
        road: Road = graph.road
        values = dict(zip(road.split.inputs, call.leaves, strict=True))
        for stage, drops in zip(road.stages, road.drops, strict=True):
            reads = stage.reads(values)
            last = stage is road.stages[-1]
            values |= stage.run(reads) if last else checkpoint(stage.run, reads, use_reentrant=False)
            for name in drops:
                values.pop(name, None)
        return pytree.tree_unflatten(road.result(values), graph.capture.out_spec)


def held(trainer: Trainer) -> Iterator[Tensor]:
    """All that is there between steps: weights, buffers and the state of optimizers, synthesizers' too."""
    states = (state for optimizer in trainer.optimizers for state in optimizer.state.values())
    kept = (value for state in states for value in state.values() if isinstance(value, Tensor))
    yield from itertools.chain(trainer.net.parameters(), trainer.net.buffers(), kept)
