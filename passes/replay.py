"""The backward pass of one node, run on fake tensors.

Formulas tell what the backward pass of an operation costs from the operation. They cannot tell it of a
checkpoint, which runs forward once more, and of an autograd function, whose backward is any code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn


def run_backward(
    run: Callable[..., Any], arguments: Any, parameters: Sequence[nn.Parameter]
) -> Iterator[None]:
    """Run `run(arguments)` on tensors cut off from their history, yield, then run its backward pass.

    Whatever gradients it leaves at the parameters are removed.
    """
    made = run(pytree.tree_map_only(Tensor, _cut_off, arguments))
    yield
    results = [each for each in pytree.tree_leaves(made) if isinstance(each, Tensor) and each.requires_grad]
    try:
        torch.autograd.backward(results, [torch.ones_like(each) for each in results])
    finally:
        for parameter in parameters:
            parameter.grad = None


def _cut_off(tensor: Tensor) -> Tensor:
    leaf = tensor.detach().requires_grad_(tensor.requires_grad)
    return leaf.clone()  # a leaf that requires a gradient may not be written to
