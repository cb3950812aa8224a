"""The gradient of a table from which rows were read."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_dense_backward(
    grad: Tensor, indices: Tensor, rows: int, padding_index: int, scale_by_frequency: bool
) -> Tensor:
    """A row has the sum of the gradients of all places that have read it: `(rows, features)`."""
    features = grad.shape[-1]
    flat, at = grad.reshape(-1, features), indices.reshape(-1)
    if scale_by_frequency:
        counts = torch.zeros_like(at).new_zeros(rows).scatter_add(0, at, torch.ones_like(at))
        flat = flat / counts[at].unsqueeze(1)
    if padding_index >= 0:
        flat = torch.where((at == padding_index).unsqueeze(1), 0, flat)
    zeros = grad.new_zeros(rows, features)
    return zeros.scatter_add(0, at.unsqueeze(1).expand(-1, features), flat)
