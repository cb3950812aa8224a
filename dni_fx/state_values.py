"""What tensors of a state are: where their batch is, which values they make, and what is like them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from dni_fx.errors import PlanError
from passes import ValueSpec
from passes.anchors import Anchor
from passes.values import value_of


def batch_dim_of(leaf: Tensor, batch: int, argument: str) -> int:
    """Which dimension of a tensor of state is the batch: the one of its size, the last one aside.

    Raises:
        PlanError: none is, or several may be.
    """
    last = leaf.dim() if leaf.dim() == 1 else leaf.dim() - 1
    found = [at for at in range(last) if leaf.shape[at] == batch]
    if len(found) != 1:
        several = "several dimensions are" if found else "no dimension is"
        raise PlanError(
            f"cannot tell which dimension of {argument!r}, {tuple(leaf.shape)}, is the batch: {several} of "
            f"its size, {batch}, which is the first one of the first input. Give an example whose batch has "
            "a size of its own, to a model that has time second (batch_first=True)."
        )
    return found[0]


def check_alike(argument: str, node: fx.Node, source: Any, leaf: Tensor) -> None:
    """Do nothing if an output can be passed in again where `leaf` was.

    Raises:
        PlanError: it is no tensor, or one of another shape or type.
    """
    wanted = value_of(node)
    given = value_of(source) if isinstance(source, fx.Node) else None
    if given is None or given.shape != wanted.shape or not _is_same_kind(wanted.dtype, given.dtype, leaf):
        is_told = given is not None and given.shape is not None
        what = f"{given.dtype} of shape {given.shape}" if given is not None and is_told else "no tensor"
        raise PlanError(
            f"what is carried to {argument!r} is {what}, and {node.name} is {wanted.dtype} of shape "
            f"{wanted.shape}. State comes back in the form in which it is passed in."
        )


def _is_same_kind(wanted: torch.dtype | None, given: torch.dtype | None, leaf: Tensor) -> bool:
    """Whether state of one type can be passed in again as the other: autocast makes it narrow by itself."""
    if wanted == given or wanted is None or given is None:
        return wanted == given
    kind = leaf.device.type
    casts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return casts and wanted.is_floating_point and given.is_floating_point


def value_spec_of(node: fx.Node, batch_dim: int) -> ValueSpec:
    """Batch first, one row each, if the batch is not in front: layers before it count as features."""
    value = value_of(node)
    assert value.shape is not None
    assert value.dtype is not None
    anchor = Anchor(node.name)
    if not batch_dim:
        return ValueSpec(anchor, value.shape, value.dims, value.dtype, 0, value.feature_dim)
    batch = value.shape[batch_dim]
    features = 1
    for at, size in enumerate(value.shape):
        features *= 1 if at == batch_dim else size
    return ValueSpec(anchor, (batch, features), ("b", features), value.dtype, 0, 1)
