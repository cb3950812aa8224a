"""Nets that are written to be trained on a device, each with a batch, and how PyTorch trains them."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx

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
    """A layer that the first and the last stage read, one that is frozen, and an input that skips a stage."""

    def __init__(self):
        super().__init__()
        self.twice, self.between, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.between.bias.requires_grad_(False)

    def forward(self, x):
        first = self.twice(x).tanh()
        return self.last(self.twice(self.between(first).tanh()).tanh() + first)


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


@dataclass(frozen=True)
class Case:
    """A net, where it is cut, what guesses, and what moves its weights."""

    make: Any
    shape: tuple
    plan: str
    optimizer: str
    synthesizer: str = "linear"
    labels: bool = False
    rate: float = 0.05

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
            if self.make is Words:
                x = torch.randint(9, (size, *self.shape), generator=generator)
            yield x, torch.randint(CLASSES, (size,), generator=generator)

    def cut(self):
        """The net with its cuts."""
        (x, _), *_ = self.batches()
        interface = "dni:guard=0"  # a device has none
        return dni_fx.decouple(
            self.net(), (x,), plan=self.plan, synthesizer=self.synthesizer, interface=interface
        )

    def written(self, folder):
        """The cut net, written to be trained."""
        cut, ((x, y), *_) = self.cut(), self.batches()
        dni_fx.export_training(
            cut,
            folder,
            inputs=(x,),
            targets=y,
            loss=F.cross_entropy,
            optimizer=self.optimizer,
            rate=self.rate,
            labels_as_context=self.labels,
        )
        return cut

    def trained(self, cut, mode):
        """The losses of PyTorch, and the model that it has trained."""
        twin = copy.deepcopy(cut)
        if mode == "decoupled":
            trainer = dni_fx.Trainer(
                twin,
                loss=F.cross_entropy,
                optimizer=self.factory,
                runtime="local",
                labels_as_context=self.labels,
            )
            return [float(trainer.step(batch).loss) for batch in self.batches()], twin
        plain = dni_fx.recouple(twin).train()
        optimizer, losses = self.factory([p for p in plain.parameters() if p.requires_grad]), []
        for x, y in self.batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(plain(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses, plain


CASES = {
    "layers": Case(layers, (6,), "balanced:stages=3", "momentum"),
    "labels": Case(layers, (6,), "balanced:stages=2", "sgd", "critic", labels=True),
    "heads": Case(layers, (6,), "balanced:stages=3", "momentum", "auto", labels=True),
    "images": Case(Images, (1, 8, 8), "at:after=norm+second", "sgd", "conv"),
    "tied": Case(Tied, (6,), "at:after=twice+between", "adam", rate=1e-3),
    "words": Case(Words, (5,), "balanced:stages=2", "momentum"),
}
