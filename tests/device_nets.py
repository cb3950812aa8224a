"""Nets that are written to be trained on a device, each with a batch, and how PyTorch trains them."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from tests.turns import turn

CLASSES = 4


class Images(nn.Module):
    """Convolutions, batch norm, and pooling of both kinds."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.last = nn.Linear(4 * 4, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        return self.last(F.adaptive_avg_pool2d(F.relu(self.second(x)), 2).flatten(1))


class Tied(nn.Module):
    """A layer and a number that the first and the last stage read, and a value that skips a stage."""

    def __init__(self):
        super().__init__()
        self.twice, self.between, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.between.bias.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(0.9))

    def forward(self, x):
        first = self.twice(x * self.scale).tanh()
        return self.last(self.twice(self.between(first).tanh()).tanh() * self.scale + first)


class TwoHeads(nn.Module):
    """An output of a stage before the last, which then waits for the loss, and guesses meanwhile."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(6, 6) for _ in range(3))
        self.early, self.late = nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.second(self.first(x).tanh()).tanh()
        return self.early(x), self.late(self.third(x).tanh())


class NormAndDropout(nn.Module):
    """What is another thing in eval mode."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.last(self.drop(self.norm(self.first(x))).tanh())


class Patches(nn.Module):
    """Features go last and come back, so that tensors do not lie in memory in the order of their axes."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(1, 6, 2, stride=2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.wide, self.last = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        inner = self.wide(self.norm(self.deep(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.last((x + inner).mean([-2, -1]))


class NormTwice(nn.Module):
    """One norm in two stages, and an output that is infinite in places."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("masked", torch.arange(CLASSES) == 2)

    def forward(self, x):
        x = self.norm(self.second(self.norm(self.first(x)).tanh()))
        return self.last(x), self.last(x).masked_fill(self.masked, float("-inf"))


class Counts(nn.Module):
    """Hands on how many steps there are, which is no tensor, and returns it too."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(9, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        steps = x.shape[1]
        return self.last(self.table(x).sum(1).tanh() / steps), steps


class Words(nn.Module):
    """An embedding, a recurrent layer and attention, over steps of time."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.cells = nn.GRU(8, 8, batch_first=True)
        self.heads = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(self.heads(self.cells(self.table(x))[0]).mean(1))


def layers():
    """Three blocks, with dropout in none of them."""
    middle = [nn.Linear(6, 10), nn.LayerNorm(10), nn.GELU(), nn.Linear(10, 10), nn.Tanh()]
    return nn.Sequential(*middle, nn.Linear(10, CLASSES))


def both_heads(outputs, target):
    """The loss of two outputs."""
    return sum(F.cross_entropy(each, target) for each in outputs)


def of_first(outputs, target):
    """The loss of the first output alone."""
    return F.cross_entropy(outputs[0], target)


def by_count(outputs, target):
    """The loss of the first output, times a number that comes beside it."""
    return of_first(outputs, target) * outputs[1]


@dataclass(frozen=True)
class Case:
    """A net, where it is cut, what guesses, and what moves its weights; it may draw random numbers."""

    make: Any
    shape: tuple
    plan: str
    optimizer: str
    synthesizer: str = "linear"
    labels: bool = False
    rate: float = 0.05
    loss: Any = F.cross_entropy
    interface: str = "dni:guard=0"  # a device has none
    draws: bool = False

    @property
    def tolerance(self):
        """How far runtimes may be apart: Adam makes rounding large where a gradient is 0."""
        return 1e-3 if self.optimizer == "adam" else 1e-4

    @property
    def factory(self):
        """The optimizer of PyTorch that does the same."""
        kinds = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam}
        more = {"momentum": 0.9} if self.optimizer == "momentum" else {}
        return lambda parameters: kinds[self.optimizer](parameters, lr=self.rate, **more)

    def net(self):
        """The same net every time."""
        torch.manual_seed(0)
        return self.make()

    def batches(self, count=10):
        """Batches of two sizes."""
        generator = torch.Generator().manual_seed(1)
        for at in range(count):
            size = 6 if at % 3 else 4
            x = torch.randn(size, *self.shape, generator=generator)
            if self.make in (Words, Counts):
                x = torch.randint(9, (size, *self.shape), generator=generator)
            yield x, torch.randint(CLASSES, (size,), generator=generator)

    def cut(self):
        """The net with its cuts."""
        (x, _), *_ = self.batches()
        return dni_fx.decouple(
            self.net(), (x,), plan=self.plan, synthesizer=self.synthesizer, interface=self.interface
        )

    def written(self, folder):
        """The cut net, written to be trained."""
        cut, ((x, y), *_) = self.cut(), self.batches()
        dni_fx.export_training(
            cut,
            folder,
            inputs=(x,),
            targets=y,
            loss=self.loss,
            optimizer=self.optimizer,
            rate=self.rate,
            labels_as_context=self.labels,
        )
        return cut

    def trained(self, mode):
        """The losses of PyTorch, and the model that it has trained."""
        twin = self.cut()
        if mode == "decoupled":
            trainer = dni_fx.Trainer(
                twin,
                loss=self.loss,
                optimizer=self.factory,
                runtime="local",
                labels_as_context=self.labels,
            )
            return [float(trainer.step(batch).loss) for batch in self.batches()], twin
        plain = dni_fx.recouple(twin).train()
        optimizer, losses = self.factory([p for p in plain.parameters() if p.requires_grad]), []
        for x, y in self.batches():
            optimizer.zero_grad()
            loss = self.loss(plain(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses, plain


CASES = {
    "layers": Case(layers, (6,), "balanced:stages=3", "momentum"),
    "labels": Case(layers, (6,), "balanced:stages=2", "sgd", "critic", labels=True),
    "heads": Case(layers, (6,), "balanced:stages=3", "momentum", "auto", labels=True),
    "images": Case(Images, (1, 8, 8), "at:after=norm+second", "sgd", "conv"),
    "patches": Case(Patches, (1, 8, 8), "balanced:stages=2", "sgd"),
    "tied": Case(Tied, (6,), "at:after=twice+between", "adam", "mlp", labels=True, rate=1e-3),
    "words": Case(Words, (5,), "balanced:stages=2", "momentum"),
    "two_heads": Case(TwoHeads, (6,), "at:after=first+third", "sgd", "mlp", loss=both_heads),
    "counts": Case(Counts, (5,), "at:after=table", "sgd", loss=by_count),
    "norm_twice": Case(
        NormTwice, (6,), "at:after=norm", "momentum", "zero", loss=of_first, interface="dni:guard=0,warmup=4"
    ),
    "norm_and_dropout": Case(
        NormAndDropout, (6,), "at:after=drop", "momentum", "mlp", interface="dni:guard=0,warmup=2", draws=True
    ),
}


def written(name, folders):
    """The folder of a case, below one that test processes share; who comes first writes it."""
    path = folders / name
    with turn(folders / f"{name}.lock"):
        if not path.exists():
            CASES[name].written(path)
    return path
