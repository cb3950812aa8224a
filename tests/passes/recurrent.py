"""Annotated graphs of recurrent nets, by each way in which they can be captured."""

import torch
from torch import nn

import dni_fx
from dni_fx.assembly import training_graph
from passes import Anchor

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}


class Net(nn.Module):
    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.core = kind(3, 4, **options)

    def forward(self, x):
        return self.core(x)[0]


class Sums(nn.Module):
    """A loop whose state is one tensor, read twice in each iteration, beside a sum that none needs."""

    def __init__(self):
        super().__init__()
        self.into, self.again = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        h, total = x.new_zeros(x.shape[0], 4), 0
        for t in range(x.shape[1]):
            h = 0.5 * h + torch.tanh(self.into(x[:, t]) + self.again(h))
            total = total + h.square().sum()
        return total


def exported(net, length=9, batch=2):
    """The graph of torch.export, in which a layer is an operator and a loop is unrolled."""
    return captured(net, "export", length, batch)


def traced(net, length=9, batch=2):
    """The graph of the symbolic tracer, in which a layer is a module."""
    return captured(net, "symbolic", length, batch)


def captured(net, frontend, length, batch):
    return training_graph(dni_fx.capture(net, torch.randn(batch, length, 3), frontend=frontend))


CORE = Anchor("core")
