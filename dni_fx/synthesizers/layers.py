"""The layers that learners are made of, on the CPU whatever device is the default."""

from __future__ import annotations

import itertools

import torch
from torch import nn


def hidden_layers(features: int, width: int, depth: int, dtype: torch.dtype) -> nn.ModuleList:
    """`depth` fully connected layers of `width` units, one after the other."""
    widths = [features, *[width] * depth]
    return nn.ModuleList(
        nn.Linear(one, other, dtype=dtype, device="cpu") for one, other in itertools.pairwise(widths)
    )


def last_layer(features: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """A fully connected layer at zero, so that the first guess is zero.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, supplement, "Common details".
    """
    layer = nn.Linear(features, outputs, dtype=dtype, device="cpu")
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
