"""What operators that ONNX lacks are made of. To add one: a function in a file here, and its line in a table.

A function takes what the operator takes, and returns what it returns, computed by operators that ONNX has.
Operators are taken apart where they are called forward and in the gradients that autograd makes of them;
if these have no graph, as sparse ones, a second table replaces the function before they are made.
Where an operator draws random numbers, it asks `randomness.uniform` for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from dni_fx.exporters.training.decompositions import (
    convolution,
    copying,
    distances,
    embedding,
    losses,
    normalization,
    ordering,
    pooling,
    randomness,
    resizing,
    sampling,
    striding,
)

aten = torch.ops.aten
Table = dict[Any, Callable[..., Any]]

_TORCHS_OWN = (
    aten.rrelu_with_noise_backward,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_functional,
    aten._native_batch_norm_legit_no_training,
    aten.native_batch_norm,
    aten.batch_norm_backward,
    aten.native_group_norm,
    aten.native_layer_norm,
)
"""Those of torch's own decompositions that are wanted besides its core ones.

Batch norm in train mode is among ours, since torch's exporter translates it wrongly.
"""

_OURS: Table = {
    aten.convolution_backward.default: convolution.convolution_backward,
    aten.max_pool2d_with_indices_backward.default: pooling.max_pool_backward,
    aten.max_pool3d_with_indices_backward.default: pooling.max_pool_backward,
    aten.adaptive_max_pool2d.default: pooling.adaptive_max_pool2d,
    aten.adaptive_max_pool2d_backward.default: pooling.adaptive_max_pool2d_backward,
    aten.avg_pool2d_backward.default: pooling.avg_pool_backward,
    aten.avg_pool3d_backward.default: pooling.avg_pool_backward,
    aten._adaptive_avg_pool2d_backward.default: pooling.adaptive_avg_pool2d_backward,
    aten._adaptive_avg_pool3d_backward.default: pooling.adaptive_avg_pool3d_backward,
    aten.upsample_linear1d_backward.default: resizing.linear_backward,
    aten.upsample_bilinear2d_backward.default: resizing.linear_backward,
    aten.upsample_trilinear3d_backward.default: resizing.linear_backward,
    aten.upsample_nearest1d_backward.default: resizing.nearest_backward,
    aten.upsample_nearest2d_backward.default: resizing.nearest_backward,
    aten.upsample_nearest3d_backward.default: resizing.nearest_backward,
    aten._upsample_nearest_exact1d_backward.default: resizing.nearest_exact_backward,
    aten._upsample_nearest_exact2d_backward.default: resizing.nearest_exact_backward,
    aten._upsample_nearest_exact3d_backward.default: resizing.nearest_exact_backward,
    aten.replication_pad1d_backward.default: resizing.replication_pad_backward,
    aten.replication_pad2d_backward.default: resizing.replication_pad_backward,
    aten.replication_pad3d_backward.default: resizing.replication_pad_backward,
    aten.grid_sampler_2d_backward.default: sampling.grid_sampler_2d_backward,
    aten.embedding_dense_backward.default: embedding.embedding_dense_backward,
    aten._cdist_forward.default: distances.cdist_forward,
    aten._cdist_backward.default: distances.cdist_backward,
    aten.kthvalue.default: ordering.kthvalue,
    aten.searchsorted.Tensor: ordering.searchsorted,
    aten.median.default: ordering.median,
    aten.median.dim: ordering.median_dim,
    aten.nll_loss_forward.default: losses.nll_loss_forward,
    aten.nll_loss2d_forward.default: losses.nll_loss2d_forward,
    aten._native_batch_norm_legit.default: normalization.batch_norm,
    aten._native_batch_norm_legit_functional.default: normalization.batch_norm_functional,
    aten._weight_norm_interface_backward.default: normalization.weight_norm_backward,
    aten.as_strided.default: striding.as_strided,
    aten.as_strided_.default: striding.as_strided_,
    aten.copy.default: copying.copy,
    aten.copy_.default: copying.copy_,
    aten.native_dropout.default: randomness.native_dropout,
    aten.rrelu_with_noise_functional.default: randomness.rrelu_with_noise_functional,
    aten.rrelu_with_noise.default: randomness.rrelu_with_noise,
    aten.rrelu_with_noise_.default: randomness.rrelu_with_noise_,
    aten.bernoulli.default: randomness.bernoulli,
    aten.bernoulli.p: randomness.bernoulli_p,
    aten.bernoulli_.float: randomness.bernoulli_,
    aten.uniform_.default: randomness.uniform_,
    aten.normal_.default: randomness.normal_,
    aten.exponential_.default: randomness.exponential_,
    aten.empty.memory_format: randomness.zeros,
    aten.empty_permuted.default: randomness.zeros_in_order,
    aten.rand.default: randomness.rand,
    aten.rand_like.default: randomness.rand_like,
    aten.randn.default: randomness.randn,
    aten.randn_like.default: randomness.randn_like,
}

_BEFORE_GRADIENTS: Table = {
    torch.embedding: embedding.embedding,
    aten.embedding.default: embedding.embedding,
    F.embedding: embedding.functional_embedding,
    torch.embedding_bag: embedding.embedding_bag,
    aten._embedding_bag.default: embedding.embedding_bag,
    aten._embedding_bag_forward_only.default: embedding.embedding_bag,
    F.embedding_bag: embedding.functional_embedding_bag,
}
"""Functions that are others before gradients are worked out, since of theirs no graph can be made."""


class Replaced(TorchFunctionMode):
    """Inside, functions whose gradients no graph can say are others, which compute the same."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced: Any = _BEFORE_GRADIENTS.get(func, func)
        return replaced(*args, **(kwargs or {}))


def table() -> Table:
    """Every operator that is taken apart before a step is written, and by what."""
    return {**core_aten_decompositions(), **get_decompositions(_TORCHS_OWN), **_OURS}
