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


MODELS = {
    "lstm": lambda: (LSTM(), (torch.randn(3, 3, 4),)),
    "unrolled-cell": lambda: (Unrolled(), (torch.randn(3, 3, 4),)),
}
