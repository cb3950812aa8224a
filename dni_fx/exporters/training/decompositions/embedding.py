"""Tables from which rows are read, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SUM = 0
_MODES = {"sum": _SUM, "mean": 1}
"""What torch calls the ways to make one row of a bag, by name."""


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


def embedding(
    weight: Tensor,
    indices: Tensor,
    padding_index: int = -1,
    scale_by_frequency: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of a table, whose gradient is dense also where a sparse one was asked for: ONNX has no other."""
    return torch.embedding(weight, indices, padding_index, scale_by_frequency, False)


def functional_embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`torch.nn.functional.embedding` with a dense gradient."""
    return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse=False)


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_by_frequency: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    weights: Tensor | None = None,
    has_last: bool = False,
    padding_index: int | None = None,
) -> Any:
    """Sums or means of rows, a bag of them from each offset on: `(bags, features)`, and nothing three times.

    Nothing is what its own gradient is worked out from. Of largest elements it stays the operator itself.
    """
    if mode not in _MODES.values():
        more = (scale_by_frequency, mode, False, weights, has_last, padding_index)
        return torch.embedding_bag(weight, indices, offsets, *more)
    padding = -1 if padding_index is None else padding_index
    rows = embedding(weight, indices, padding, scale_by_frequency)
    counted = (indices != padding).to(rows.dtype)
    scales = counted if weights is None else counted * weights
    starts = (offsets[:-1] if has_last else offsets).to(indices.dtype)
    begun = indices.new_zeros(len(indices) + 1).index_add(0, starts, torch.ones_like(starts))
    bags = begun.cumsum(0)[:-1] - 1
    found = rows.new_zeros(len(starts), rows.shape[1]).index_add(0, bags, rows * scales.unsqueeze(1))
    if mode == _MODES["mean"]:
        counts = rows.new_zeros(len(starts)).index_add(0, bags, counted)
        found = found / counts.clamp(min=1).unsqueeze(1)
    return found, None, None, None


def functional_embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding_bag` made of rows, if it is their sum or mean."""
    more = (max_norm, norm_type, scale_grad_by_freq, mode, False, per_sample_weights, include_last_offset)
    if mode not in _MODES or max_norm is not None:
        return F.embedding_bag(input, weight, offsets, *more, padding_idx)
    weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    starts = torch.arange(0, input.numel(), input.shape[1]) if offsets is None else offsets
    padding = padding_idx if padding_idx is None or padding_idx >= 0 else padding_idx + len(weight)
    more = (scale_grad_by_freq, _MODES[mode], False, weights, include_last_offset, padding)
    return embedding_bag(weight, input.reshape(-1), starts, *more)[0]
