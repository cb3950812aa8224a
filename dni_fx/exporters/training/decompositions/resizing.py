"""The gradients of images that were made larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dni_fx.exporters.training.decompositions.pooling import spread


def upsample_bilinear2d_backward(
    grad: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Each gradient is spread over the two by two elements that it was made of, by their weights."""
    for axis, scale in enumerate((scales_h, scales_w)):
        size, out = int(input_size[axis + 2]), int(output_size[axis])
        step = (size - 1) / max(out - 1, 1) if align_corners else 1 / scale if scale else size / out
        rows = [[0.0] * size for _ in range(out)]
        for at, row in enumerate(rows):
            source = at * step if align_corners else max((at + 0.5) * step - 0.5, 0.0)
            low = min(int(source), size - 1)
            row[low] += 1 - (source - low)
            row[min(low + 1, size - 1)] += source - low
        grad = spread(grad, rows, axis)
    return grad
