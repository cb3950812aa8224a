"""Small pipelines on processes, and the same written out in one."""

from collections import deque

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage

from dni_fx.dni import DNI
from dni_fx.interface import INTERFACES
from dni_fx.step import Step
from dni_fx.synthesizers import SYNTHESIZERS
from passes import BoundarySpec, ValueSpec, parse
from passes.anchors import Anchor

STEPS, BATCH, WIDTH = 8, 6, 5


def modules(ranks):
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(ranks - 1)]
    return [module.double() for module in [*made, nn.Linear(WIDTH, WIDTH)]]


def batches(steps=STEPS):
    made = torch.Generator().manual_seed(1)
    x = torch.randn(steps, BATCH, WIDTH, generator=made, dtype=torch.float64)
    return [(each, each.flip(1).tanh() / 2) for each in x]


def loss_of(output, target):
    return (output - target).square().mean()


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.3)


def begun(rank, ranks, module=None):
    dist.init_process_group("gloo")
    module = modules(ranks)[rank] if module is None else module
    return module, PipelineStage(module, rank, ranks, torch.device("cpu"))


def trained(module, stage, schedule, data=None):
    """The mean loss of each step where it is known."""
    optimizer, found = sgd(module), []
    for x, y in batches() if data is None else data:
        optimizer.zero_grad()
        losses = []
        args = (x,) if stage.is_first else ()
        schedule.step(*args, target=y if stage.is_last else None, losses=losses)
        optimizer.step()
        found += [float(torch.stack(losses).detach().mean())] if losses else []
    return found


def state_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def ended(result):
    dist.destroy_process_group()
    return result


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


class Hand:
    """The stages of one process, each with a DNI of its own but the last, as the algorithm has them."""

    def __init__(self, ranks, micro, how, lag):
        self.modules, self.micro, self.lag = modules(ranks), micro, lag
        self.optimizers = [sgd(module) for module in self.modules]
        size = BATCH // micro
        value = ValueSpec(Anchor("here"), (size, WIDTH), ("b", WIDTH), torch.float64, 0, 1)
        parts = parse("linear", SYNTHESIZERS), parse(how, INTERFACES)
        self.steps = [Step(batch=size) for _ in range(ranks - 1)]
        specs = [BoundarySpec("here", (value,), at, (at + 1,)) for at in range(ranks - 1)]
        self.dnis = [DNI(spec, *parts, step) for spec, step in zip(specs, self.steps, strict=True)]
        self.waiting = [deque() for _ in self.dnis]

    def step(self, x, y):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        values, inner = x.chunk(self.micro), []
        for at, module in enumerate(self.modules[:-1]):
            inputs = [each.detach().requires_grad_(at > 0) for each in values]
            values = [module(each) for each in inputs]
            inner.append((inputs, values))
        true = self._last(values, y.chunk(self.micro))
        for at, (inputs, outputs) in reversed([*enumerate(inner)]):
            self.steps[at].number += 1
            locked = self.dnis[at].mix > 0
            (self._exactly if locked else self._by_guess)(at, outputs, true)
            true = [each.grad for each in inputs]
        for parameter in [each for module in self.modules for each in module.parameters()]:
            parameter.grad.div_(self.micro)
        for optimizer in self.optimizers:
            optimizer.step()

    def learn(self, at, most):
        while len(self.waiting[at]) > most:
            for guess, true in self.waiting[at].popleft():
                self.dnis[at].regress(guess, (true,))
                self.dnis[at].step()

    def _last(self, values, targets):
        ends = [each.detach().requires_grad_() for each in values]
        for end, target in zip(ends, targets, strict=True):
            loss_of(self.modules[-1](end), target).backward()
        return [end.grad for end in ends]

    def _exactly(self, at, outputs, true):
        self.learn(at, 0)
        dni = self.dnis[at]
        for output, each in zip(outputs, true, strict=True):
            output.backward(dni.learn(dni.guess([output.detach()]), (each,))[0])
            dni.step()

    def _by_guess(self, at, outputs, true):
        arrived = []
        for output, each in zip(outputs, true, strict=True):
            with self.steps[at].coming_late(frozenset({"here"})):
                guess, (up,) = self.dnis[at].guess_up((output,))
            output.backward(up)
            arrived.append((guess, each))
        self.waiting[at].append(arrived)
        self.learn(at, self.lag)
