"""Nets whose training step is written as a folder of graphs, each folder once for all tests of a session."""

import fcntl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.exporters.onnx_training import Lesson, OnnxTraining
from dni_fx.exporters.training.moves import SGD, Adam, Momentum

WIDTH, CLASSES = 6, 3


class TwoHeads(nn.Module):
    """An output of the first stage, which then waits for the loss, and a boundary that learns."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.early, self.late = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.first(x).tanh()
        early = self.early(x)
        return early, self.late(self.second(x).tanh())


class NormAndDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.3)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.last(self.drop(self.norm(self.first(x))).tanh())


class Tied(nn.Module):
    """Reads one layer in its first stage and in its last."""

    def __init__(self):
        super().__init__()
        self.both, self.inner = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.last(self.both(self.inner(self.both(x).tanh()).tanh()))


def both_heads(outputs, target):
    return sum(F.cross_entropy(each, target) for each in outputs)


@dataclass(frozen=True)
class Case:
    """A net, where it is cut, and what it is trained with; `slack` is how far runtimes may be apart."""

    net: type[nn.Module]
    plan: str
    interface: str
    move: Any
    slack: float
    loss: Any = F.cross_entropy
    rate: float = 0.05
    labels_as_context: bool = False


CASES = {
    "two heads": Case(TwoHeads, "at:after=second", "dni:guard=0", SGD(), 1e-5, both_heads),
    "norm and dropout": Case(NormAndDropout, "at:after=drop", "dni:guard=0,warmup=2", Momentum(), 1e-5),
    # By Adam a parameter whose gradient is all rounding moves as far as others do.
    "tied": Case(Tied, "at:after=tanh", "dni:guard=0", Adam(), 1e-3, rate=1e-2, labels_as_context=True),
}


def batches(count=6):
    """Inputs and labels, not all of the same size."""
    generator = torch.Generator().manual_seed(1)
    sizes = [5 if at % 3 else 4 for at in range(count)]
    return [
        (torch.randn(n, WIDTH, generator=generator), torch.randint(CLASSES, (n,), generator=generator))
        for n in sizes
    ]


def cut_of(name):
    case = CASES[name]
    torch.manual_seed(0)
    inputs = (torch.zeros(4, WIDTH),)
    return dni_fx.decouple(case.net(), inputs, plan=case.plan, synthesizer="mlp", interface=case.interface)


def written(name, folders):
    """The folder of a net, below a folder that test processes share; who comes first writes it."""
    case, path = CASES[name], folders / name.replace(" ", "_")
    with turn(folders / f"{path.name}.lock"):
        if not path.exists():
            x, y = batches(1)[0]
            lesson = Lesson((x,), {}, y, case.loss, case.move, case.rate, case.labels_as_context)
            OnnxTraining(check=False).write(cut_of(name), path, lesson)
    return path


@contextmanager
def turn(path):
    """Inside, no other test process is inside with the same path."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
