"""Which dimension of a value holds its features: the one that a layer would be as wide as.

Rank cannot tell (batch, time, features) from (batch, channels, length), so the answer comes from the
operation that made the value, and follows it through views and arithmetic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

_POOL = re.compile(r"pool([123])d")
# Negative where an operation also takes a value without a batch.
_CHANNELS = {
    "convolution": 1,
    "native_batch_norm": 1,
    "cudnn_batch_norm": 1,
    "miopen_batch_norm": 1,
    "_batch_norm_with_update": 1,
    "_native_batch_norm_legit": 1,
    "native_group_norm": 1,
    "pixel_shuffle": -3,
    "pixel_unshuffle": -3,
    "im2col": -2,
    "col2im": -3,
}
_LAST = re.compile(
    r"mm|addmm|bmm|baddbmm|addbmm|mv|addmv|linear|native_layer_norm|_fused_rms_norm|_cdist_forward|_trilinear|"
    r".*_rnn.*|.*embedding.*|_scaled_dot_product.*|_flash_attention.*|_efficient_attention.*"
)
_VIEWS = frozenset({"view", "_unsafe_view", "_reshape_alias", "view_copy"})
_MOVES = frozenset({"t", "transpose", "permute", "expand", "repeat", "unfold", "unsqueeze", "stack"}) | _VIEWS


class FeatureDims:
    """The feature dimension of every tensor that an operation made, as far as the operations tell."""

    def __init__(self) -> None:
        # Tensors are kept, so that no other one takes over an id.
        self._known: dict[int, tuple[Tensor, int]] = {}

    def of(self, tensor: Tensor) -> int:
        """The tensor's feature dimension; the last one where nothing is known, -1 where it has none."""
        known = self._known.get(id(tensor))
        return tensor.dim() - 1 if known is None else known[1]

    def note(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Iterable[Tensor]
    ) -> None:
        """Learn from one aten operation that was run."""
        name = func.overloadpacket.__name__
        for out in outputs:
            if (dim := _made(name, out)) is None:
                dim = self._kept(func, name, args, kwargs, out)
            if dim is not None and 0 <= dim < out.dim():
                self._known[id(out)] = (out, dim)

    def _kept(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
    ) -> int | None:
        """Where the feature dimension of an input went."""
        known = [self._known[id(each)] for each in _tensors(args) if id(each) in self._known]
        if not known:
            return None
        if name not in _MOVES:
            for source, dim in known:
                if source.shape == out.shape:
                    return dim
            for source, dim in known:
                if source.dim() == out.dim():
                    return dim
        names = (argument.name for argument in func._schema.arguments)
        arguments = dict(zip(names, args, strict=False)) | kwargs
        return (_moved if name in _MOVES else _dropped)(name, arguments, *known[0], out)


def _made(name: str, out: Tensor) -> int | None:
    """The feature dimension of what a layer makes, whatever it reads."""
    rank = out.dim()
    if _LAST.fullmatch(name):
        return rank - 1
    if name in _CHANNELS:
        return _CHANNELS[name] % max(rank, 2)
    if (match := _POOL.search(name)) is not None:
        return rank - int(match[1]) - 1
    return None


def _tensors(args: tuple[Any, ...]) -> Iterable[Tensor]:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, list | tuple):
            yield from (item for item in arg if isinstance(item, Tensor))


def _moved(name: str, arguments: dict[str, Any], source: Tensor, dim: int, out: Tensor) -> int | None:
    rank = source.dim()
    if name in _VIEWS:
        return _viewed(source.shape, dim, out.shape)
    if name in {"t", "transpose"}:
        one, other = (
            arguments.get(key, default) % rank for key, default in (("dim0", 0), ("dim1", rank - 1))
        )
        return {one: other, other: one}.get(dim, dim)
    if name == "permute":
        return [each % rank for each in arguments["dims"]].index(dim)
    if name in {"unsqueeze", "stack"}:
        return dim + (arguments.get("dim", 0) % out.dim() <= dim)
    return dim if name == "unfold" else dim + out.dim() - rank


def _dropped(name: str, arguments: dict[str, Any], source: Tensor, dim: int, out: Tensor) -> int | None:
    """For reductions, `select`, `unbind` and `squeeze`; a reduced feature dimension leaves nothing known."""
    given = arguments.get("dim")
    if given is None and name != "squeeze":
        given = 0 if name in {"select", "unbind"} else None
        if given is None:
            return None
    rank = source.dim()
    dims = range(rank) if given is None else [given] if isinstance(given, int) else given
    gone = {each % rank for each in dims}
    if name == "squeeze":
        gone = {each for each in gone if source.shape[each] == 1}
    if dim in gone or out.dim() != rank - len(gone):
        return None
    return dim - sum(each < dim for each in gone)


def _viewed(old: tuple[int, ...], dim: int, new: tuple[int, ...]) -> int | None:
    """The new dimension along which the next feature is found: where the old one's stride falls."""
    stride = math.prod(old[dim + 1 :])
    strides = [math.prod(new[at + 1 :]) for at in range(len(new))]
    for at, (size, each) in enumerate(zip(new, strides, strict=True)):
        if each == stride and size == old[dim]:
            return at
    for at, (size, each) in enumerate(zip(new, strides, strict=True)):
        if each <= stride < each * size:
            return at
    return None
