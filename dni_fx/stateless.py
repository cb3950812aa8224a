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
    """Inside, modules hold these tensors under these names."""
    held = {name: _holder(tree, name) for name in tensors}
    orders = {id(holder): (holder, list(holder)) for _, holder, _ in held.values()}
    known = {name: holder[leaf] for name, (_, holder, leaf) in held.items()}
    try:
        for name, (module, holder, leaf) in held.items():
            del holder[leaf]
            # As an attribute: a layer may keep its weights in a list as well, and follows what it is
            # assigned.
            setattr(module, leaf, tensors[name])
        yield
    finally:
        for name, (module, holder, leaf) in held.items():
            vars(module).pop(leaf, None)
            holder.pop(leaf, None)
            setattr(module, leaf, known[name])
            holder[leaf] = known[name]
            vars(module).pop(leaf, None)
        for holder, order in orders.values():
            kept = {key: holder[key] for key in order}
            holder.clear()
            holder.update(kept)


def _holder(tree: nn.Module, name: str) -> tuple[nn.Module, dict[str, Any], str]:
    """The module that holds a tensor of this name, its dictionary with it, and the name that it has there."""
    path, _, leaf = name.rpartition(".")
    module = tree.get_submodule(path)
    for holder in _HOLDERS:
        if leaf in vars(module)[holder]:
            return module, vars(module)[holder], leaf
    raise AssertionError(f"{path} holds no {leaf}")
