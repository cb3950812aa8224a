"""Models in which several values cross the same way, and cuts that make one boundary of them."""

import torch
from torch import nn

import dni_fx
from tests.stirred import stirred, stirred_zoo

BATCH, WIDTH = 5, 8
CUT = "at:after=lower,joint=lower"
NAME = "getitem_and_getitem_1"
POLICIES = {
    "residual": "every:module=*",
    "in-place-add": "every:module=*",
    "recursion-over-a-tree": "every:module=*",
    "lstm": "every:module=*",
    "dense": "min-cut:stages=3,slack=0.5",
    "coupling": "balanced:stages=3,width=4",
    "own-attention": "balanced:stages=3,width=4",
}
"""Zoo models in which values cross together, and how."""


class Cells(nn.Module):
    """Two LSTM cells, one above the other; the state of the lower one starts the upper one."""

    def __init__(self, outputs=1):
        super().__init__()
        self.inner, self.lower, self.upper = nn.Linear(3, 6), nn.LSTMCell(6, WIDTH), nn.LSTMCell(WIDTH, WIDTH)
        self.outer = nn.ModuleList(nn.Linear(WIDTH, 4) for _ in range(outputs))

    def forward(self, x):
        h, c = self.lower(self.inner(x))
        return self.outer[0](self.upper(h, (h, c))[0])


def cells(cls=Cells, **options):
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, dtype=torch.float64)
    return stirred(cls().double(), (x,), **{"plan": CUT, "synthesizer": "mlp"} | options), x


def joined(name, **options):
    """A cut model in which all that crosses the same way crosses as one, whatever its shapes are."""
    if name == "cells":
        cut, x = cells(**options)
        return cut, (x,)
    plan = f"{POLICIES[name]},joint=*"
    return stirred_zoo(name, **{"plan": plan, "synthesizer": "delayed"} | options)


def captured(cls=Cells):
    return dni_fx.capture(cls(), torch.randn(BATCH, 3), frontend="symbolic")
