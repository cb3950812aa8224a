"""The data and the two nets of the other samples."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

torch.set_num_threads(1)  # nets this small lose more by sharing a step among threads than they gain


def digits() -> list[Tensor]:
    """Handwritten digits: images (samples, 64) in [0, 1] to train and to test on, then the labels of both."""
    data = load_digits()
    images = (data.data / 16).astype("float32")
    parts = train_test_split(images, data.target, test_size=450, random_state=0, stratify=data.target)
    return [torch.from_numpy(part) for part in parts]


def mlp() -> nn.Sequential:
    """64-256-256-256-10, the hidden layers as in the DNI paper: linear, batch norm, ReLU."""
    net = nn.Sequential()
    for i, width in enumerate((64, 256, 256), start=1):
        net.add_module(f"hidden{i}", nn.Sequential(nn.Linear(width, 256), nn.BatchNorm1d(256), nn.ReLU()))
    net.add_module("output", nn.Linear(256, 10))
    return net


class Block(nn.Module):
    """Two convolutions and a skip connection around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.outer = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), unchanged in shape."""
        return F.relu(x + self.outer(self.inner(x)))


class Residual(nn.Module):
    """A small residual net. A cut after a block's `inner` is crossed by two values: that one and the skip."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.first = Block(channels)
        self.second = Block(channels)
        self.output = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) to (batch, 10)."""
        x = F.max_pool2d(self.stem(x.unflatten(1, (1, 8, 8))), 2)
        return self.output(self.second(self.first(x)).mean((2, 3)))
