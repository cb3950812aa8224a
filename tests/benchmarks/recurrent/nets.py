"""A recurrent net whose state goes in and comes out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class Recurrent(nn.Module):
    """What `read` makes of every step, an LSTM over it, and outputs for every step."""

    def __init__(self, read: nn.Module, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.read = read
        self.core = nn.LSTM(inputs, hidden, batch_first=True)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs `(batch, time, outputs)`, and the state after the last step."""
        inside, state = self.core(self.read(x), state)
        return self.out(inside), state

    def start(self, batch: int) -> State:
        """The state before the first step: zeros."""
        zeros = torch.zeros(1, batch, self.core.hidden_size)
        return zeros, zeros.clone()
