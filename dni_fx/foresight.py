"""Networks that tell from the inputs of a model what will be sent over a boundary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from dni_fx.errors import StageError
from passes import BoundarySpec, ValueSpec

_ROWS = 4096
"""Ids beyond this number share their rows with smaller ones."""
_CHANNELS = 64
_CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_POOLS: dict[int, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    3: lambda value, space: F.adaptive_avg_pool1d(value, space[0]),
    4: lambda value, space: F.adaptive_avg_pool2d(value, (space[0], space[1])),
    5: lambda value, space: F.adaptive_avg_pool3d(value, (space[0], space[1], space[2])),
}


def network_for(spec: BoundarySpec, value: ValueSpec, inputs: Sequence[Tensor]) -> nn.Module:
    """A network from the inputs to one value of a boundary, on the CPU, in float32 at least.

    An image is told by convolutions, from inputs that are images; tokens are told one by one, from inputs
    with as many tokens; everything else by fully connected layers, from all inputs, flattened.

    Raises:
        StageError: the value has no batch in front, or has sizes that follow the input.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    rank, like = len(value.shape), [each for each in inputs if each.dim() > 1]
    if rank in _CONVOLUTIONS and value.batch_dim == 0 and value.feature_dim % rank == 1:
        if any(_is_image(each, rank) for each in like):
            return _Pixels(value, inputs, dtype)
    elif rank == 3 and value.batch_dim == 0 and any(each.shape[1] == value.shape[1] for each in like):
        return _Tokens(value, inputs, dtype)
    if value.batch_dim != 0 or not inputs or any(isinstance(size, str) for size in value.dims[1:]):
        raise StageError(
            f"cannot predict {spec.name} (after {value.anchor}) from the model's inputs: its shape is "
            f"{value.shape}, its batch in dimension {value.batch_dim}. Cut elsewhere, or take "
            "unlock=backward."
        )
    return _Flat(value, inputs, dtype)


class _Pixels(nn.Module):
    """Two hidden convolutions at the input's size, pooled to the value's, and one more: `(b, c, *space)`."""

    def __init__(self, value: ValueSpec, inputs: Sequence[Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.rank = len(value.shape)
        self.space = value.shape[2:]
        channels = sum(each.shape[1] for each in inputs if _is_image(each, self.rank))
        kind, widths = _CONVOLUTIONS[self.rank], [channels, _CHANNELS, _CHANNELS]
        self.hidden = nn.ModuleList(
            kind(one, other, 3, padding=1, dtype=dtype, device="cpu")
            for one, other in itertools.pairwise(widths)
        )
        self.last = kind(_CHANNELS, value.shape[1], 3, padding=1, dtype=dtype, device="cpu")

    @override
    def forward(self, inputs: Sequence[Tensor], like: Tensor) -> Tensor:
        images = [each.to(self.last.weight.dtype) for each in inputs if _is_image(each, self.rank)]
        inside = torch.cat(images, 1)
        for position, layer in enumerate(self.hidden):
            inside = layer(inside)
            if position == len(self.hidden) - 1:
                inside = _POOLS[self.rank](inside, tuple(like.shape[2:]))
            inside = F.relu(F.layer_norm(inside, inside.shape[1:]))
        return self.last(inside)


class _Tokens(nn.Module):
    """The same hidden layer for every token, which sees where it stands: `(b, time, *)` to `(b, time, f)`.

    No token sees another one: it could be the one that the model is to guess.
    """

    def __init__(self, value: ValueSpec, inputs: Sequence[Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.time = value.shape[1]
        width = min(max(2 * value.shape[2], 128), 1024)
        used = [each for each in inputs if self._takes(each)]
        self.read = nn.ModuleList(_reader(_by_token(each), width, dtype) for each in used)
        self.hidden = nn.Linear(width, width, dtype=dtype, device="cpu")
        self.last = nn.Linear(width, value.shape[2], dtype=dtype, device="cpu")

    @override
    def forward(self, inputs: Sequence[Tensor], like: Tensor) -> Tensor:
        self.time = like.shape[1]
        used = [each for each in inputs if self._takes(each)]
        inside = sum(
            (_read(layer, _by_token(each)) for layer, each in zip(self.read, used, strict=True)),
            _waves(self.time, self.hidden.in_features, self.last.weight),
        )
        inside = F.relu(F.layer_norm(self.hidden(F.relu(inside)), (self.hidden.out_features,)))
        return self.last(inside)

    def _takes(self, each: Tensor) -> bool:
        return each.dim() > 1 and each.shape[1] == self.time


class _Flat(nn.Module):
    """Two hidden layers from all inputs, flattened, to all elements of a value `(b, *sizes)`."""

    def __init__(self, value: ValueSpec, inputs: Sequence[Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        features = math.prod(value.shape[1:])
        width = min(max(2 * features, 128), 1024)
        self.read = nn.ModuleList(_reader(_flat(each), width, dtype) for each in inputs)
        self.hidden = nn.Linear(width, width, dtype=dtype, device="cpu")
        self.last = nn.Linear(width, features, dtype=dtype, device="cpu")

    @override
    def forward(self, inputs: Sequence[Tensor], like: Tensor) -> Tensor:
        parts = [_read(layer, _flat(each)) for layer, each in zip(self.read, inputs, strict=True)]
        inside = torch.stack([part.mean(1) if part.dim() == 3 else part for part in parts]).sum(0)
        inside = F.relu(F.layer_norm(inside, (inside.shape[-1],)))
        inside = F.relu(F.layer_norm(self.hidden(inside), (inside.shape[-1],)))
        return self.last(inside).view_as(like)


def _is_image(tensor: Tensor, rank: int) -> bool:
    return tensor.dim() == rank and tensor.is_floating_point()


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)


def _by_token(tensor: Tensor) -> Tensor:
    """`(batch, time, n)` of `(batch, time, *sizes)`; n is left out where ids have no sizes."""
    if tensor.dim() == 2:
        return tensor.unsqueeze(-1) if tensor.is_floating_point() else tensor
    return tensor.flatten(2)


def _reader(tensor: Tensor, width: int, dtype: torch.dtype) -> nn.Module:
    """The first layer for one input: weights of its features, or a row for each id."""
    if tensor.is_floating_point():
        return nn.Linear(tensor.shape[-1], width, dtype=dtype, device="cpu")
    return nn.Embedding(_ROWS, width, dtype=dtype, device="cpu")


def _read(layer: nn.Module, tensor: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return layer(tensor.to(layer.weight.dtype))
    rows = layer(tensor.long() % _ROWS)
    return rows.mean(-2) if tensor.dim() == 3 else rows


def _waves(time: int, width: int, like: Tensor) -> Tensor:
    """Rows `(time, width)` that tell positions, of any number, apart."""
    half = (width + 1) // 2
    rates = 10_000.0 ** -(torch.arange(half, device=like.device) / half)
    angles = torch.arange(time, device=like.device).unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width].to(like.dtype)
