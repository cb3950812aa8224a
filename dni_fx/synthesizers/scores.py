"""The last layer of a head, whole, factored or sampled."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override


class Scores(nn.Module):
    """A linear layer from features to scores, at zero at first.

    With a `rank` the features go through so many numbers on their way, and a large layer costs as much as
    two small ones. With `samples`, the cross entropy of a batch is taken over the classes that occur in
    it and about so many others, evenly spaced, whose part stands for all that are left out.

    Sources:
        Jean et al. 2015, https://arxiv.org/abs/1412.2007 (importance sampling of a softmax).
    """

    def __init__(self, features: int, outputs: int, rank: int, samples: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.outputs = outputs
        self.samples = samples
        self.factor = nn.Linear(features, rank, bias=False, dtype=dtype, device="cpu") if rank else None
        self.weight = nn.Parameter(torch.zeros(outputs, rank or features, dtype=dtype, device="cpu"))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=dtype, device="cpu"))

    @override
    def forward(self, features: Tensor) -> Tensor:
        """`(*batch, features)` to `(*batch, outputs)`."""
        return F.linear(self._factored(features), self.weight, self.bias)

    def cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        """The mean over the rows with a label, `(rows, features)` and `(rows,)`; a negative label is none."""
        if self.samples and self.samples < self.outputs:
            return self._sampled(self._factored(features), labels)
        return _mean_cross_entropy(self(features), labels)

    def _factored(self, features: Tensor) -> Tensor:
        return features if self.factor is None else self.factor(features)

    def _sampled(self, features: Tensor, labels: Tensor) -> Tensor:
        there, places = torch.unique(labels.clamp(min=0), return_inverse=True)
        stride = max(self.outputs // self.samples, 1)
        # Which others it is changes with the labels, and draws nothing from the model's random numbers.
        others = torch.arange(int(labels.sum()) % stride, self.outputs, stride, device=labels.device)
        others = others[~torch.isin(others, there)]
        rows = torch.cat([there, others])
        scores = F.linear(features, self.weight[rows], self.bias[rows])
        left_out = self.outputs - len(there)
        stands_for = math.log(max(left_out / max(len(others), 1), 1.0))
        shift = torch.zeros(len(rows), dtype=scores.dtype, device=scores.device)
        shift[len(there) :] = stands_for
        return _mean_cross_entropy(scores + shift, torch.where(labels < 0, labels, places))


def _mean_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    valid = (labels >= 0).sum().clamp(min=1)
    known = torch.where(labels < 0, _IGNORED, labels)
    return F.cross_entropy(scores, known, ignore_index=_IGNORED, reduction="sum") / valid


_IGNORED = -100
