"""Cells of one's own whose state is carried, and ways to train them."""

import torch
from torch import nn

import dni_fx
from tests.streams import SGD

BATCH, WIDTH = 3, 6
RUNTIMES = ["plain", "backprop", "local"]


class Steps(nn.Module):
    """A cell of one's own; what it returns and how its state looks is up to those below."""

    def __init__(self):
        super().__init__()
        self.inner, self.again, self.out = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x, state):
        h = self.next(x, state)
        return self.out(h), h

    def next(self, x, h):
        return torch.tanh(self.inner(x) + self.again(h))


def zeros(*shape, dtype=torch.float64):
    return torch.zeros(BATCH, *shape, dtype=dtype)


def made(cls=Steps, state=None, path=1, lazy=False, **options):
    """A cut model, and its state at the start."""
    torch.manual_seed(0)
    state = zeros(WIDTH) if state is None else state
    options = {"plan": "at:after=again", "synthesizer": "linear", "interface": "dni:guard=0", **options}
    example = None if lazy else (inputs(1)[0], state)
    return dni_fx.decouple(cls().double(), example, carry={"state": path}, **options), state


def inputs(count):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 4, generator=draw, dtype=torch.float64) for _ in range(count)]


def train(cut, state, runtime, loss, carried, count=10):
    """Train on some steps by a loop or a runtime; returns the parameters."""
    if runtime == "plain":
        optimizer = SGD(dni_fx.recouple(cut).parameters())
        for x in inputs(count):
            returned = cut(x, state)
            optimizer.zero_grad()
            loss(returned, None).backward()
            optimizer.step()
            state = carried(returned)
    else:
        trainer = dni_fx.Trainer(cut, loss=loss, optimizer=SGD, runtime=runtime)
        for number, x in enumerate(inputs(count)):
            trainer.step(((x,) if number else (x, state), None))
    return [parameter.detach() for parameter in dni_fx.recouple(cut).parameters()]
