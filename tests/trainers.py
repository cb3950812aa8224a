"""What the tests of the trainers of other packages share: models, data, and the loop written out by hand."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

import dni_fx
from tests.equality import assert_same
from tests.stirred import stir

BATCH = 4
ROWS = 38  # ten batches, the last one of two rows
SYNTHESIZER = "critic"
PLAN = "at:after=first+second"


class Net(nn.Module):
    """A classifier that returns its loss, in float64; with `tied`, two of its layers are one."""

    def __init__(self, tied=False):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.third = nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)
        if tied:
            self.third.weight = self.second[0].weight
        self.double()

    def logits(self, x):
        return self.last(self.third(self.second(self.first(x))).tanh())

    def forward(self, x, labels):
        logits = self.logits(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Tokens(Net):
    """Labels each step of a sequence, and divides by the number of labels that it is told of."""

    def forward(self, x, labels, num_items_in_batch=None, **kwargs):
        logits = self.logits(x)
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction=reduction)
        return {"loss": loss if num_items_in_batch is None else loss / num_items_in_batch, "logits": logits}


class Careless(Net):
    """Takes any argument, and divides by nothing."""

    def forward(self, x, labels, **kwargs):
        return super().forward(x, labels)


class Rows(Dataset):
    """Rows of six numbers with one label each, or sequences of five of them; some labels do not count."""

    def __init__(self, sequences=False, count=ROWS):
        draw = torch.Generator().manual_seed(1)
        shape = (count, 5) if sequences else (count,)
        self.x = torch.randn(*shape, 6, dtype=torch.float64, generator=draw)
        self.labels = torch.randint(4, shape, generator=draw)
        if sequences:
            self.labels[torch.rand(shape, generator=draw) < 0.4] = -100

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        return {"x": self.x[at], "labels": self.labels[at]}

    def batches(self):
        return [
            {"x": x, "labels": labels}
            for x, labels in zip(self.x.split(BATCH), self.labels.split(BATCH), strict=True)
        ]


def cut_of(model, at_once=True, stirred=True, **options):
    """A drop-in whose synthesizers send something and learn from labels; lazily made, they start afresh."""
    example = Rows(isinstance(model, Tokens)).batches()[0] if at_once else None
    options = {"synthesizer": SYNTHESIZER, "plan": PLAN, "context": "labels"} | options
    cut = dni_fx.decouple(model, example, interface="dni:classes=4,lr=0.01", **options)
    return stir(cut) if at_once and stirred else cut


def pair(model=None, **options):
    """Two equal drop-ins, for a trainer and for the loop by hand."""
    torch.manual_seed(0)
    cut = cut_of(Net() if model is None else model, **options)
    return cut, copy.deepcopy(cut)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def in_groups(items, size):
    """Lists of `size` items, the last one of what is left."""
    return [items[at : at + size] for at in range(0, len(items), size)]


def by_hand(cut, groups, share, epochs=1, weight=None):
    """Train the plain way: gradients of a group add up, and `weight`, or `share`, of a batch is its part.

    `share` is what the cut model is told of it.
    """
    optimizer = sgd(cut)
    cut.train()
    for _ in range(epochs):
        for group in groups:
            optimizer.zero_grad()
            for batch in group:
                cut.gradient_scale = share(batch, group)
                (cut(**batch)["loss"] * (weight or share)(batch, group)).backward()
            optimizer.step()
    cut.gradient_scale = 1
    return cut


def assert_equal(cut, other, tolerance=1e-10):
    """The same parameters, buffers and synthesizers, and the state in which they learn."""
    ours, theirs = dict(cut.state_dict()), dict(other.state_dict())
    assert any(name.startswith("dni.") for name in ours)
    assert_same(ours, theirs, tolerance)


def differ(cut, other):
    """Whether the parameters of the models themselves differ."""
    ours, theirs = dni_fx.recouple(cut).state_dict(), dni_fx.recouple(other).state_dict()
    return any(float((ours[name] - theirs[name]).abs().max()) > 1e-6 for name in ours)
