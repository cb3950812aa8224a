"""The gradients of images that were read at places that a grid says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_BILINEAR, _NEAREST = 0, 1
_ZEROS, _BORDER = 0, 1


def grid_sampler_2d_backward(
    grad: Tensor,
    value: Tensor,
    grid: Tensor,
    mode: int,
    padding: int,
    align_corners: bool,
    wanted: Sequence[bool],
) -> Any:
    """The gradients of the images `(batch, channels, height, width)` and of the grid `(batch, *places, 2)`.

    Each place has read its four neighbors by their distance, or the nearest of them. Bicubic reading is
    left as it is.
    """
    if mode not in (_BILINEAR, _NEAREST):
        return NotImplemented
    batch, channels, height, width = value.shape
    (x, slope_x), (y, slope_y) = (
        _place(grid[..., axis], int(size), padding, align_corners) for axis, size in ((0, width), (1, height))
    )
    flat = value.reshape(batch, channels, -1)
    of_value, along_x, along_y = torch.zeros_like(flat), torch.zeros_like(x), torch.zeros_like(y)
    for column, weight_x, rise_x in _neighbors(x, mode):
        for row, weight_y, rise_y in _neighbors(y, mode):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = torch.where(inside, row * width + column, 0).to(torch.int64)
            index = index.reshape(batch, 1, -1).expand(-1, channels, -1)
            part = torch.where(inside.unsqueeze(1), grad * (weight_x * weight_y).unsqueeze(1), 0)
            of_value = of_value.scatter_add(2, index, part.reshape(batch, channels, -1))
            read = torch.where(inside, (grad * flat.gather(2, index).reshape(grad.shape)).sum(1), 0)
            along_x, along_y = along_x + read * rise_x * weight_y, along_y + read * weight_x * rise_y
    of_grid = torch.stack([along_x * slope_x, along_y * slope_y], -1)
    return of_value.reshape(value.shape) if wanted[0] else None, of_grid if wanted[1] else None


def _place(at: Tensor, size: int, padding: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Where -1 to 1 are along an axis of this size, and by how much a place moves with them."""
    slope = torch.full_like(at, (size - 1) / 2 if align_corners else size / 2)
    found = (at + 1) * slope if align_corners else ((at + 1) * size - 1) / 2
    if padding == _ZEROS:
        return found, slope
    if padding != _BORDER:
        found, turned = _reflected(found, size, align_corners)
        slope = slope * turned
    inside = (found > 0) & (found < size - 1)
    return found.clamp(0, size - 1), torch.where(inside, slope, 0)


def _reflected(found: Tensor, size: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Places thrown back from the edges until they are inside, and -1 where that has turned their way."""
    low, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if not span:
        return torch.zeros_like(found), torch.zeros_like(found)
    sign = torch.where(found < low, -1.0, 1.0).to(found.dtype)
    far = (found - low).abs()
    turns = (far / span).floor()
    rest = far - turns * span
    is_back = turns % 2 != 0
    return torch.where(is_back, span - rest, rest) + low, torch.where(is_back, -sign, sign)


def _neighbors(at: Tensor, mode: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What a place reads along an axis: where, by which weight, and how that grows with the place."""
    if mode == _NEAREST:
        yield at.round(), torch.ones_like(at), torch.zeros_like(at)
        return
    low = at.floor()
    yield low, low + 1 - at, torch.full_like(at, -1)
    yield low + 1, at - low, torch.ones_like(at)
