"""Comparisons of two models: the same seed, the same call, the same numbers."""

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from passes.shell import shell


def seeded(model, args, kwargs=None, seed=0):
    """What the model returns from this seed, given copies of the arguments: a model may write to them."""
    torch.manual_seed(seed)
    args = pytree.tree_map(_private, tuple(args))
    return model(*args, **pytree.tree_map(_private, kwargs or {}))


def copied(model):
    """A copy with tensors of its own; other than `deepcopy`, also where a layer keeps a computed weight."""
    return shell(model, replace=lambda tensor: tensor.detach().clone())


def objective(outputs):
    """A scalar on which every element of every output has an influence of its own."""
    draw = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for value in pytree.tree_leaves(outputs):
        if isinstance(value, Tensor) and value.requires_grad:
            total = total + (value * torch.randn(value.shape, generator=draw, dtype=torch.float64)).sum()
    return total


def gradients(model, args, factor=1.0, kwargs=None):
    """Gradients of all parameters for the objective of one call, by name; None where there is none."""
    model.zero_grad()
    (objective(seeded(model, args, kwargs)) * factor).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def buffers_of(model):
    return {name: each for name, each in model.named_buffers() if not name.startswith("dni.")}


def assert_same(ours, theirs, tolerance=0.0):
    """Both have one form; tensors differ by at most `tolerance` of the largest element, None counts as 0."""
    left, form = pytree.tree_flatten(ours, is_leaf=_is_none)
    right, other = pytree.tree_flatten(theirs, is_leaf=_is_none)
    assert form == other
    for at, (a, b) in enumerate(zip(left, right, strict=True)):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            assert (a.shape, a.dtype, a.layout) == (b.shape, b.dtype, b.layout)
            a, b = (each.to_dense() if each.is_sparse else each for each in (a, b))
            if not a.is_floating_point():
                assert torch.equal(a, b), f"value {at} of {form}"
                continue
            apart = float((a - b).detach().abs().max()) if a.numel() else 0.0
            allowed = tolerance * float(b.detach().abs().max()) if b.numel() else 0.0
            assert apart <= allowed, f"value {at} of {form} is {apart} apart"
        elif tolerance and (isinstance(a, Tensor) or isinstance(b, Tensor)):
            there = a if isinstance(a, Tensor) else b
            assert not there.any()
        else:
            assert type(a) is type(b)
            assert a == b


def _private(value):
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value.requires_grad else value.detach().clone()


def _is_none(value):
    return value is None
