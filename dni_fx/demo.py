"""A model and data to try the command line on: `dni-fx train dni_fx.demo:mlp --data dni_fx.demo:clusters`."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

CLASSES = 10
FEATURES = 64
_SEED = 0


def mlp() -> tuple[nn.Module, Tensor]:
    """A classifier with three hidden layers, (batch, 64) to (batch, 10), and an example of its input."""
    widths = [FEATURES, 128, 128, 128]
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES)), torch.zeros(32, FEATURES)


def clusters() -> dict[str, Tensor]:
    """Points around ten centers, (samples, 64), and which center each is from; the same at every call."""
    draw = torch.Generator().manual_seed(_SEED)
    centers = torch.randn(CLASSES, FEATURES, generator=draw)
    arrays: dict[str, Tensor] = {}
    for part, size in (("train", 2048), ("test", 256)):
        labels = torch.randint(CLASSES, (size,), generator=draw)
        arrays[f"x_{part}"] = centers[labels] + torch.randn(size, FEATURES, generator=draw)
        arrays[f"y_{part}"] = labels
    return arrays
