"""Models with state that runs along time."""

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """A module that returns a tensor and a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(4, 6, batch_first=True)
        self.second = nn.LSTM(6, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.first(x)
        x, (h, _) = self.second(x)
        return self.head(torch.tanh(x[:, -1]) + h[0])


class Unrolled(nn.Module):
    """One cell is called at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for step in range(3):
            state = self.cell(x[:, step], state)
        return self.head(state)


class Stacked(nn.Module):
    """Two directions, two layers, a projection, a state of the caller's, and the state that comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=3, dropout=0.2)
        self.second = nn.GRU(6, 5, num_layers=2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, (h, c) = self.first(x)
        x, last = self.second(x, state)
        return self.head(torch.tanh(x)), (last, h, c)


class TwoCells(nn.Module):
    """Two cells unrolled over time, their states in a list; every step makes an output."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.RNNCell(4, 5), nn.LSTMCell(5, 5)])
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        low = x.new_zeros(x.shape[1], 5)
        high, found = (low, low), list[Tensor]()
        for step in range(3):
            low = self.cells[0](x[step], low)
            high = self.cells[1](low, high)
            found.append(self.head(high[0]))
        return torch.stack(found)


class Plain(nn.Module):
    """A recurrent layer of the simplest kind, between layers that see one step alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rnn = nn.Linear(4, 5), nn.RNN(5, 5, nonlinearity="relu", batch_first=True)
        self.gru, self.outer = nn.GRU(5, 5, batch_first=True, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(torch.tanh(self.inner(x)), None)
        _, last = self.gru(x)
        return self.outer(last.transpose(0, 1).flatten(1))


MODELS = {
    "lstm": lambda: (LSTM(), (torch.randn(3, 3, 4),)),
    "unrolled-cell": lambda: (Unrolled(), (torch.randn(3, 3, 4),)),
    "stacked-recurrence": lambda: (Stacked(), (torch.randn(4, 3, 4), torch.randn(2, 3, 5))),
    "two-cells": lambda: (TwoCells(), (torch.randn(4, 3, 4),)),
    "plain-recurrence": lambda: (Plain(), (torch.randn(3, 3, 4),)),
}
