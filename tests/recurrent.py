"""Recurrent nets, each of which can also be run by hand with its state detached every so many steps."""

import torch
from torch import nn

import dni_fx

BATCH, FEATURES, WIDTH, CLASSES, EVERY = 5, 3, 6, 2, 4


class Layered(nn.Module):
    """One of torch's layers between two linear ones."""

    def __init__(self, kind, state="missing", **options):
        super().__init__()
        self.into = nn.Linear(FEATURES, 4)
        self.core = kind(4, WIDTH, **options)
        self.out = nn.Linear(options.get("proj_size") or WIDTH, CLASSES)
        self.first = nn.Linear(FEATURES, WIDTH)
        self.state = state

    def forward(self, x, *given, every=0):
        core, time = self.core, 1 if self.core.batch_first else 0
        x, state, made = self.into(x), self._first(x, given), []
        if not every:
            made, state = core(x, state)
            return self.out(made), *self._last(state)
        for chunk in x.split(every, time):
            y, state = core(chunk, detached(state) if made else state)
            made.append(y)
        return self.out(torch.cat(made, time)), *self._last(state)

    def _last(self, state):
        return (state[0], state[1]) if isinstance(self.core, nn.LSTM) else (state,)

    def _first(self, x, given):
        if self.state == "computed":
            h = torch.tanh(self.first(x.mean(1 if self.core.batch_first else 0)))
            h = torch.stack([h] * self.core.num_layers)
            return (h, 2 * h) if isinstance(self.core, nn.LSTM) else h
        return given[0] if given else None


class Celled(nn.Module):
    """One of torch's cells, called in a loop."""

    def __init__(self, kind):
        super().__init__()
        self.into, self.cell, self.out = nn.Linear(FEATURES, 4), kind(4, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x, every=0):
        h = x.new_zeros(x.shape[0], WIDTH)
        state, ys = (h, h) if isinstance(self.cell, nn.LSTMCell) else h, []
        for t in range(x.shape[1]):
            state = detached(state) if every and t and not t % every else state
            state = self.cell(self.into(x[:, t]), state)
            ys.append(self.out(state[0] if isinstance(state, tuple) else state))
        return torch.stack(ys, 1)


class ByHand(nn.Module):
    """A gated cell of one's own: a dictionary of two states, a bare weight, a sum, a head at the end."""

    def __init__(self):
        super().__init__()
        self.into, self.gate = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3)

    def forward(self, x, every=0):
        x = self.into(x)
        state = {"h": x.new_zeros(x.shape[0], WIDTH), "slow": x[:, 0]}
        total, hs = 0, []
        for t in range(x.shape[1]):
            state = detached(state) if every and t and not t % every else state
            z = torch.sigmoid(self.gate(state["h"]))
            new = torch.tanh(x[:, t] + self.norm(state["h"]) @ self.weight + state["slow"])
            state = {"h": z * state["h"] + (1 - z) * new, "slow": 0.9 * state["slow"] + 0.1 * new}
            total = total + state["h"].square().mean()
            hs.append(state["h"])
        return self.out(torch.stack(hs, 1)) + total


class Stacked(nn.Module):
    """Two cells, one above the other, and only what comes last is returned."""

    def __init__(self):
        super().__init__()
        self.lower, self.upper = nn.GRUCell(FEATURES, WIDTH), nn.GRUCell(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x, every=0):
        h = above = x.new_zeros(x.shape[0], WIDTH)
        for t in range(x.shape[1]):
            if every and t and not t % every:
                h, above = h.detach(), above.detach()
            h = self.lower(x[:, t], h)
            above = self.upper(h, above)
        return self.out(above)


LAYERS = {
    "tanh": lambda: Layered(nn.RNN),
    "relu": lambda: Layered(nn.RNN, nonlinearity="relu", batch_first=True),
    "gru": lambda: Layered(nn.GRU, batch_first=True, bias=False),
    "lstm": lambda: Layered(nn.LSTM, batch_first=True),
    "stack": lambda: Layered(nn.LSTM, num_layers=3),
    "stack of gru": lambda: Layered(nn.GRU, num_layers=2, batch_first=True, dropout=0.4),
    "projections": lambda: Layered(nn.LSTM, num_layers=2, proj_size=3, batch_first=True, dropout=0.2),
    "given": lambda: Layered(nn.LSTM, "given", num_layers=2, batch_first=True),
    "given to gru": lambda: Layered(nn.GRU, "given"),
    "computed": lambda: Layered(nn.LSTM, "computed", batch_first=True),
    "computed for gru": lambda: Layered(nn.GRU, "computed", num_layers=2),
}
LOOPS = {
    "gru cell": lambda: Celled(nn.GRUCell),
    "lstm cell": lambda: Celled(nn.LSTMCell),
    "rnn cell": lambda: Celled(nn.RNNCell),
    "by hand": ByHand,
    "stacked cells": Stacked,
}
NETS = LAYERS | LOOPS


def detached(state):
    return torch.utils._pytree.tree_map(torch.Tensor.detach, state)


def inputs_for(net, length=14, batch=BATCH):
    """A batch of sequences, and a state where one is to be given."""
    draw = torch.Generator().manual_seed(length)
    first = not isinstance(net, Layered) or net.core.batch_first
    x = torch.randn(
        *((batch, length) if first else (length, batch)), FEATURES, generator=draw, dtype=torch.float64
    )
    if getattr(net, "state", "") != "given":
        return (x,)
    h = torch.randn(net.core.num_layers, batch, WIDTH, generator=draw, dtype=torch.float64)
    return x, ((h, 0.5 * h) if isinstance(net.core, nn.LSTM) else h)


def net_for(name):
    torch.manual_seed(0)
    net = NETS[name]().double()
    if not hasattr(net, "state") or net.state != "computed":
        net.first = None
    return net


def timed(net, length=14, every=EVERY, **options):
    """The net, cut in time; both share their parameters."""
    options = {"plan": f"time:every={every}", "synthesizer": "linear"} | options
    return dni_fx.decouple(net, inputs_for(net, length), **options)
