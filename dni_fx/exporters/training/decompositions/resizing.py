"""The gradients of signals, images and volumes that were made larger or smaller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dni_fx.exporters.training.decompositions.pooling import spread

_Sizes = Sequence[int]


def linear_backward(
    grad: Tensor, output_size: _Sizes, input_size: _Sizes, align_corners: bool, *scales: float | None
) -> Tensor:
    """Each gradient is spread over the two elements of every axis that it was made of, by their weights."""

    def weights(size: int, out: int, scale: float | None) -> list[list[float]]:
        step = (size - 1) / max(out - 1, 1) if align_corners else 1 / scale if scale else size / out
        rows = [[0.0] * size for _ in range(out)]
        for at, row in enumerate(rows):
            source = at * step if align_corners else max((at + 0.5) * step - 0.5, 0.0)
            low = min(int(source), size - 1)
            row[low] += 1 - (source - low)
            row[min(low + 1, size - 1)] += source - low
        return rows

    return _resized(grad, output_size, input_size, scales, weights)


def nearest_backward(grad: Tensor, output_size: _Sizes, input_size: _Sizes, *scales: float | None) -> Tensor:
    """Each gradient goes to the element that was copied, the one at or before its place."""
    return _copied(grad, output_size, input_size, scales, 0.0)


def nearest_exact_backward(
    grad: Tensor, output_size: _Sizes, input_size: _Sizes, *scales: float | None
) -> Tensor:
    """Each gradient goes to the element that was copied, the one at or before the middle of its place."""
    return _copied(grad, output_size, input_size, scales, 0.5)


def replication_pad_backward(grad: Tensor, value: Tensor, padding: _Sizes) -> Tensor:
    """Gradients of what was put around go to the edges. Padding is told from the last axis to the first."""
    dims = len(padding) // 2
    for axis in range(-dims, 0):
        size, out, before = value.shape[axis], grad.shape[axis], padding[2 * (-axis - 1)]
        grad = spread(grad, [_one(min(max(at - before, 0), size - 1), size) for at in range(out)], axis)
    return grad


def _copied(
    grad: Tensor, output_size: _Sizes, input_size: _Sizes, scales: Sequence[float | None], middle: float
) -> Tensor:
    def rows(size: int, out: int, scale: float | None) -> list[list[float]]:
        step = 1 / scale if scale else size / out
        return [_one(min(int((at + middle) * step), size - 1), size) for at in range(out)]

    return _resized(grad, output_size, input_size, scales, rows)


def _resized(
    grad: Tensor,
    output_size: _Sizes,
    input_size: _Sizes,
    scales: Sequence[float | None],
    rows: Callable[[int, int, float | None], list[list[float]]],
) -> Tensor:
    """Spread gradients axis after axis, by the rows that two sizes and a scale have."""
    dims = len(output_size)
    known = scales or [None] * dims
    for axis, out, size, scale in zip(range(-dims, 0), output_size, input_size[-dims:], known, strict=True):
        grad = spread(grad, rows(int(size), int(out), scale), axis)
    return grad


def _one(at: int, size: int) -> list[float]:
    return [float(each == at) for each in range(size)]
