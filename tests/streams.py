"""Nets that return state, their chunks, and the plain loop in which state goes round."""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx

BATCH, CLASSES, WIDTH, LAYERS = 3, 5, 4, 2
SGD = partial(torch.optim.SGD, lr=0.3)


class Cell(nn.Module):
    """A cell of one's own, unrolled in Python; its state is a dictionary."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, WIDTH)
        self.inner = nn.Linear(2 * WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x, state):
        h, ys = state["h"], []
        for t in range(x.shape[1]):
            h = torch.tanh(self.inner(torch.cat([self.embed(x[:, t]), h], 1)))
            ys.append(self.out(h))
        return {"y": torch.stack(ys, 1), "state": {"h": h}}


class Recurrent(nn.Module):
    """One of torch's recurrent modules, of two layers."""

    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, WIDTH)
        self.core = kind(WIDTH, WIDTH, LAYERS, batch_first=True)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x, state):
        h, state = self.core(self.embed(x), state)
        return self.out(h), state


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


KINDS = {
    "cell": (Cell, lambda: {"h": zeros(BATCH, WIDTH)}, "state"),
    "rnn": (lambda: Recurrent(nn.RNN), lambda: zeros(LAYERS, BATCH, WIDTH), 1),
    "gru": (lambda: Recurrent(nn.GRU), lambda: zeros(LAYERS, BATCH, WIDTH), 1),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: (zeros(LAYERS, BATCH, WIDTH),) * 2, 1),
}


def chunks(count, time=2):
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(CLASSES, (2, BATCH, time), generator=draw).unbind() for _ in range(count)]


def made(kind, **options):
    """A net in float64 and its cut twin, the first state, and the place where it comes out."""
    torch.manual_seed(0)
    build, state, path = KINDS[kind]
    net = build().double()
    twin = copy.deepcopy(net)
    (x, _), *_ = chunks(1)
    options = {"synthesizer": "linear", "plan": "balanced:stages=1", **options}
    return net, dni_fx.decouple(twin, (x, state()), carry={"state": path}, **options), state


def parts(returned):
    """Outputs and state, however they come."""
    return (returned["y"], returned["state"]) if isinstance(returned, dict) else returned


def loss_of(outputs, y):
    return F.cross_entropy(outputs.flatten(0, 1), y.flatten())


def tensors(state):
    return torch.utils._pytree.tree_leaves(state)


def detached(state):
    return torch.utils._pytree.tree_map(lambda each: each.detach(), state)


def train(cut, state, steps, **call):
    """The plain loop: state goes round by itself."""
    optimizer = SGD(dni_fx.recouple(cut).parameters())
    for x, y in steps:
        outputs, state = parts(cut(x, state, **call))
        optimizer.zero_grad()
        loss_of(outputs, y).backward()
        optimizer.step()
    return state
