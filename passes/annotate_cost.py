"""What operations cost: floating-point operations of their forward pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
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
    }
    custom = {getattr(torch.ops.aten, name): formula for name, formula in own.items()}
    return FlopCounterMode(display=False, custom_mapping=custom).flop_registry


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Scores and their product with the values; (batch, heads, time, features) each."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(inputs: Shape, weights: Iterable[Shape]) -> int:
    """Every matrix once for each sample and step; what the gates do element by element is left out."""
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) > 1)


def _mkldnn_recurrent(inputs: Shape, *weights: Any, **_: Any) -> int:
    return _recurrent(inputs, weights[:2])


def _fused_recurrent(inputs: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return _recurrent(inputs, weights)


def _matrix_vector(left: Shape, _right: Shape, **_: Any) -> int:
    return 2 * math.prod(left)


def _added_matrix_vector(_bias: Shape, matrix: Shape, _vector: Shape, **_: Any) -> int:
    return 2 * math.prod(matrix)


def _added_batches(_bias: Shape, left: Shape, right: Shape, **_: Any) -> int:
    return 2 * math.prod(left) * right[-1]
