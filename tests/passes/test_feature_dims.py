from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.graphs import calls, last, trace, whole

IMAGE, SEQUENCE = torch.zeros(2, 8, 6, 6), torch.zeros(2, 8, 6)
CONV = nn.Conv2d(8, 8, 1)
LSTM = nn.LSTM(6, 5, batch_first=True)
FEATURES: dict[str, tuple[Callable[..., Any] | nn.Module, Tensor, int]] = {
    "nothing known": (torch.relu, IMAGE, 3),
    "scalar": (torch.sum, IMAGE, -1),
    "conv2d": (CONV, IMAGE, 1),
    "conv1d": (nn.Conv1d(8, 4, 1), SEQUENCE, 1),
    "conv1d of one sample": (nn.Conv1d(8, 4, 1), SEQUENCE[0], 0),
    "transposed conv": (nn.ConvTranspose2d(8, 4, 2), IMAGE, 1),
    "batch norm": (nn.BatchNorm1d(8), SEQUENCE, 1),
    "batch norm of a matrix": (nn.BatchNorm1d(8), SEQUENCE[..., 0], 1),
    "group norm": (nn.GroupNorm(2, 8), IMAGE, 1),
    "instance norm": (nn.InstanceNorm2d(8), IMAGE, 1),
    "layer norm": (nn.LayerNorm(6), SEQUENCE, 2),
    "max pool": (nn.MaxPool2d(2), IMAGE, 1),
    "max pool 1d": (nn.MaxPool1d(2), SEQUENCE, 1),
    "average pool": (nn.AvgPool2d(2), IMAGE, 1),
    "adaptive pool": (nn.AdaptiveAvgPool2d(3), IMAGE, 1),
    "pixel shuffle": (nn.PixelShuffle(2), IMAGE, 1),
    "unfold": (nn.Unfold(2), IMAGE, 1),
    "linear": (nn.Linear(6, 5), SEQUENCE, 2),
    "linear over pixels": (nn.Linear(6, 5), IMAGE, 3),
    "matmul": (lambda x: x @ x.transpose(1, 2), SEQUENCE, 2),
    "embedding": (nn.Embedding(3, 4), torch.zeros(2, 5, dtype=torch.long), 2),
    "conv then ReLU": (nn.Sequential(CONV, nn.ReLU()), IMAGE, 1),
    "conv then dropout": (nn.Sequential(CONV, nn.Dropout()), IMAGE, 1),
    "residual": (lambda x: x + CONV(x), IMAGE, 1),
    "gate": (lambda x: CONV(x) * CONV(x).mean((2, 3), keepdim=True), IMAGE, 1),
    "cat": (lambda x: torch.cat([CONV(x), CONV(x)], 1), IMAGE, 1),
    "channels last": (lambda x: CONV(x).permute(0, 2, 3, 1), IMAGE, 3),
    "tokens": (lambda x: CONV(x).flatten(2).transpose(1, 2), IMAGE, 2),
    "pixels in a row": (lambda x: CONV(x).flatten(2), IMAGE, 1),
    "flat": (lambda x: CONV(x).flatten(1), IMAGE, 1),
    "pooled away": (lambda x: CONV(x).mean((2, 3)), IMAGE, 1),
    "height pooled away": (lambda x: CONV(x).mean(2), IMAGE, 1),
    "squeezed": (lambda x: CONV(x).amax((2, 3), keepdim=True).squeeze(-1).squeeze(-1), IMAGE, 1),
    "stacked": (lambda x: torch.stack([CONV(x), CONV(x)], 1), IMAGE, 2),
    "shuffled channels": (
        lambda x: CONV(x).view(2, 2, 4, 6, 6).transpose(1, 2).reshape(2, 8, 6, 6),
        IMAGE,
        1,
    ),
    "repeated": (lambda x: CONV(x).repeat(2, 1, 1, 1), IMAGE, 1),
    "padded": (lambda x: F.pad(CONV(x), (1, 1)), IMAGE, 1),
    "heads": (lambda x: (x @ x.mT).view(2, 8, 2, 4).transpose(1, 2), SEQUENCE, 3),
    "first sample": (lambda x: CONV(x)[0], IMAGE, 0),
    "upsampled": (lambda x: F.interpolate(CONV(x), scale_factor=2.0), IMAGE, 1),
    "batch first LSTM": (lambda x: LSTM(x)[0], SEQUENCE, 2),
}


@pytest.mark.parametrize("name", FEATURES)
def test_the_feature_dimension_comes_from_what_made_the_value(name: str) -> None:
    function, x, expected = FEATURES[name]
    assert last(whole(function, x)).feature_dim == expected


def test_the_feature_dimension_follows_a_value_through_nodes() -> None:
    gm = trace(nn.Sequential(nn.Conv1d(8, 4, 1), nn.ReLU(inplace=True), nn.MaxPool1d(2)), SEQUENCE)
    assert [value.feature_dim for value in calls(gm)] == [1, 1, 1]
