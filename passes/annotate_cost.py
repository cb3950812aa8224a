"""What operations cost: floating-point operations of their forward and their backward pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from passes.values import value_of

Shape = Sequence[int]


def flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Floating-point operations of one aten operation: two for every multiply-add, nothing for the rest.

    As in torch's own counter, only products of matrices, convolutions, attention and recurrent layers
    count; arithmetic on single elements does not.
    """
    formula = _formulas().get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def backward_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Floating-point operations of the backward pass of one aten operation, in the units of `flops`.

    A product has one more product for each factor that requires a gradient; a fused kernel computes all
    gradients that it can, whichever are asked for. Nothing where gradients are switched off.
    """
    name = func.overloadpacket.__name__
    formula = _formulas().get(func.overloadpacket)
    if formula is None or name not in _BACKWARDS or not torch.is_grad_enabled():
        return 0
    needed = [_requires_grad(arg) for arg in args]
    return int(_BACKWARDS[name](formula(*args, **kwargs, out_val=out), needed, args))


def _requires_grad(argument: Any) -> bool:
    if isinstance(argument, list | tuple):
        return any(map(_requires_grad, argument))
    return isinstance(argument, Tensor) and argument.requires_grad


def is_counted(func: Any) -> bool:
    """Whether `flops` tells the cost of an operation that reads a weight; false if it may hide products.

    Operations that move, look up or add up elements cost nothing here, and that is known.
    """
    return (
        func.overloadpacket in _formulas()
        or func.is_view
        or torch.Tag.pointwise in func.tags
        or getattr(torch.Tag, "reduction", None) in func.tags
        or _FREE.fullmatch(func.overloadpacket.__name__.rstrip("_")) is not None
    )


def uncounted(gm: fx.GraphModule) -> tuple[str, ...]:
    """Names of the annotated nodes that read a weight matrix in an operation whose cost is not known."""
    return tuple(node.name for node in gm.graph.nodes if value_of(node).uncounted)


# What moves, looks up, sums up or makes elements.
_FREE = re.compile(
    r"_to_copy|_unsafe_view|_weight_norm_interface|_softmax|_log_softmax|amax|amin|argmax|argmin|cat|"
    r"constant_pad_nd|copy|cumsum|fill|flip|gather|linalg_vector_norm|logsumexp|max|mean|min|native_layer_norm|"
    r"norm|prod|repeat|roll|scatter|slice_scatter|sort|stack|std|sum|topk|tril|triu|var|zero|"
    r"new_.*|upsample_.*|index.*|.*_like|.*embedding.*"
)


@cache
def _formulas() -> dict[Any, Callable[..., int]]:
    """Formulas by operation: torch's own, and those for what its counter takes for free."""
    own = {
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_fused_attention_overrideable": _attention,
        "mkldnn_rnn_layer": _mkldnn_recurrent,
        "_cudnn_rnn": _fused_recurrent,
        "miopen_rnn": _fused_recurrent,
        "mv": _matrix_vector,
        "addmv": _added_matrix_vector,
        "dot": _matrix_vector,
        "addbmm": _added_batches,
        "_scaled_dot_product_flash_attention_for_cpu_backward": attention_backward,
        "_scaled_dot_product_fused_attention_overrideable_backward": attention_backward,
        "mkldnn_rnn_layer_backward": recurrent_backward,
    }
    custom = {getattr(torch.ops.aten, name): formula for name, formula in own.items()}
    return FlopCounterMode(display=False, custom_mapping=custom).flop_registry


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Scores and their product with the values; (batch, heads, time, features) each."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def attention_backward(_grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """The scores again, and two products for each of the two of the forward pass."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _recurrent(inputs: Shape, weights: Iterable[Shape]) -> int:
    """Every matrix once for each sample and step; what the gates do element by element is left out."""
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) > 1)


def _mkldnn_recurrent(inputs: Shape, *weights: Any, **_: Any) -> int:
    return _recurrent(inputs, weights[:2])


def recurrent_backward(inputs: Shape, *weights: Any, **_: Any) -> int:
    """Every product of the forward pass once for each of its factors."""
    return 2 * _recurrent(inputs, weights[:2])


def _fused_recurrent(inputs: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return _recurrent(inputs, weights)


def _matrix_vector(left: Shape, _right: Shape, **_: Any) -> int:
    return 2 * math.prod(left)


def _added_matrix_vector(_bias: Shape, matrix: Shape, _vector: Shape, **_: Any) -> int:
    return 2 * math.prod(matrix)


def _added_batches(_bias: Shape, left: Shape, right: Shape, **_: Any) -> int:
    return 2 * math.prod(left) * right[-1]


Backward = Callable[[int, Sequence[bool], tuple[Any, ...]], int]


def _product(left: int, right: int) -> Backward:
    """One product for each of the two factors, at these places among the arguments."""
    return lambda forward, needed, _: forward * (needed[left] + needed[right])


def _times_vector(vector: int) -> Backward:
    """The vector's gradient is a product; the matrix's is an outer product, element by element."""
    return lambda forward, needed, _: forward * needed[vector]


def _attended(forward: int, needed: Sequence[bool], args: tuple[Any, ...]) -> int:
    query, key, value = args[:3]
    return any(needed) * attention_backward((), query.shape, key.shape, value.shape)


def _fused_cells(forward: int, needed: Sequence[bool], args: tuple[Any, ...]) -> int:
    return any(needed) * forward * (1 + needed[1])


_BACKWARDS: Mapping[str, Backward] = {
    **dict.fromkeys(("mm", "bmm", "convolution", "_convolution", "cudnn_convolution"), _product(0, 1)),
    **dict.fromkeys(("convolution_overrideable", "_slow_conv2d_forward"), _product(0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm"), _product(1, 2)),
    "mv": _times_vector(1),
    "addmv": _times_vector(2),
    **dict.fromkeys(
        (
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_fused_attention_overrideable",
        ),
        _attended,
    ),
    "mkldnn_rnn_layer": lambda forward, needed, _: 2 * forward * any(needed),
    "_cudnn_rnn": _fused_cells,
    "miopen_rnn": _fused_cells,
}
"""Backward FLOPs from the forward ones, from which arguments require a gradient, and from the arguments."""
