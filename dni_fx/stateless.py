"""A stage as a function of its parameters and buffers, and not only of what it reads."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dni_fx.stage import Stage

_HOLDERS = ("_parameters", "_buffers")


def run_with(
    stage: Stage, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], reads: list[Any]
) -> dict[str, Any]:
    """What the stage writes, computed with these tensors in the place of its parameters and buffers.

    They have the names that `named_parameters` and `named_buffers` of the stage give them. A buffer that the
    code writes to in place is written to here; the model is left as it was.
    """
    with _in_place(stage.tree, {**parameters, **buffers}):
        return stage.run(reads)


@contextmanager
def _in_place(tree: nn.Module, tensors: Mapping[str, Tensor]) -> Generator[None]:
    """Inside, modules hold these tensors under these names, and under all others that the same ones have."""
    places = _places(tree)
    known = {name: _held(tree, name) for name in tensors}
    swaps = [(*place, tensors[name], known[name]) for name in tensors for place in places[id(known[name])]]
    orders = {id(holder): (holder, list(holder)) for _, holder, *_ in swaps}
    try:
        for module, holder, leaf, tensor, _ in swaps:
            del holder[leaf]
            # As an attribute: a layer may keep its weights in a list as well, and follows what it is
            # assigned.
            setattr(module, leaf, tensor)
        yield
    finally:
        for module, holder, leaf, _, original in swaps:
            vars(module).pop(leaf, None)
            holder.pop(leaf, None)
            setattr(module, leaf, original)
            holder[leaf] = original
            vars(module).pop(leaf, None)
        for holder, order in orders.values():
            kept = {key: holder[key] for key in order}
            holder.clear()
            holder.update(kept)


def _places(tree: nn.Module) -> dict[int, list[tuple[nn.Module, dict[str, Any], str]]]:
    """By tensors of a tree, each module that holds it, with the dictionary and the name that it is in."""
    found: dict[int, list[tuple[nn.Module, dict[str, Any], str]]] = {}
    for module in tree.modules():
        for holder in (vars(module)[name] for name in _HOLDERS):
            for leaf, tensor in holder.items():
                found.setdefault(id(tensor), []).append((module, holder, leaf))
    return found


def _held(tree: nn.Module, name: str) -> Tensor:
    """The tensor of a tree that has this name."""
    path, _, leaf = name.rpartition(".")
    holders = vars(tree.get_submodule(path))
    return next(holders[name][leaf] for name in _HOLDERS if leaf in holders[name])
