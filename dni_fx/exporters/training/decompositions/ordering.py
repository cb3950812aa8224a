"""What is found by putting elements in order."""

from __future__ import annotations

from torch import Tensor, int32, int64


def kthvalue(value: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The element that k - 1 others of its dimension are not larger than, and its place."""
    if not value.dim():
        return value.clone(), value.new_zeros((), dtype=int64)
    found, places = value.topk(k, dim, largest=False)
    last = tuple(each.narrow(dim, k - 1, 1) for each in (found, places))
    first, second = last if keepdim else (each.squeeze(dim) for each in last)
    return first, second


def median_dim(value: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The element in the middle of its dimension, the lower one of two, and its place."""
    size = value.shape[dim] if value.dim() else 1
    return kthvalue(value, (size + 1) // 2, dim, keepdim)


def median(value: Tensor) -> Tensor:
    """The element in the middle of all, the lower one of two."""
    return median_dim(value.reshape(-1))[0]


def searchsorted(
    ordered: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where values go among elements that are in order: how many there are below each, or not above it."""
    if sorter is not None:
        ordered = ordered.gather(-1, sorter)
    # Those in order are the same for all values, or there is a row of them for each row of values.
    rows = ordered if ordered.dim() == 1 else ordered.unsqueeze(-2)
    places = values.unsqueeze(-1)
    is_below = rows <= places if right or side == "right" else rows < places
    return is_below.sum(-1, dtype=int32 if out_int32 else int64)
