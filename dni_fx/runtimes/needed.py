"""What of a batch each of several processes has to have."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.calls import Call
from dni_fx.distributed.packing import Blank
from dni_fx.distributed.post import copied
from dni_fx.runtimes.route import Route

Parts = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional and keyword arguments, and the target."""


class _Form(NamedTuple):
    spec: pytree.TreeSpec
    tensors: tuple[object, ...]


class Needed:
    """Who needs which tensors of a batch, learned from the last one: others of its form need the same.

    A process needs the inputs that its stages read, `everywhere` those that synthesizers may see, and the
    target if it computes the loss, or if the target is shown to synthesizers.
    """

    def __init__(self) -> None:
        self._form: _Form | None = None
        self._ranks: list[Collection[int]] = []
        self._target: Collection[int] = ()

    def note(self, parts: Parts, call: Call, route: Route, everywhere: str, shows_target: bool) -> None:
        """Learn from a batch that was made this call, for which there is this route."""
        form = _form_of(parts[:2])
        if form == self._form:
            return
        everybody, readers = range(route.ranks), dict[int, set[int]]()
        named = zip(call.form.names, route.graph.road.split.inputs, call.leaves, strict=True)
        for argument, name, leaf in named:
            ranks = {home for names, home in zip(route.reads, route.homes, strict=True) if name in names}
            readers.setdefault(id(leaf), set()).update(everybody if argument == everywhere else ranks)
        self._form, self._ranks = form, [readers.get(id(leaf), everybody) for leaf in _leaves(parts[:2])]
        self._target = everybody if shows_target else (route.ranks - 1,)

    def of(self, parts: Parts, share: Parts) -> Callable[[int], Parts]:
        """For each rank the batch with blanks for what it does not need, if that is known of its form.

        `share` is what one replica trains on. Tensors are copied, once for all: a loader may fill the memory
        with the next batch before this one is through.
        """
        form, copies = self._form, dict[Tensor, Tensor]()
        if form is None or _form_of(share[:2]) != form:
            return lambda rank: copied(parts, copies)
        leaves = _leaves(parts[:2])

        def needed(rank: int) -> Parts:
            told = [x if rank in ranks else _blank(x) for x, ranks in zip(leaves, self._ranks, strict=True)]
            args, kwargs = pytree.tree_unflatten(told, form.spec)
            target = parts[2] if rank in self._target else pytree.tree_map(_blank, parts[2])
            return copied((args, kwargs, target), copies)

        return needed


def _leaves(tree: Any) -> list[Any]:
    return pytree.tree_leaves(tree)


def _form_of(tree: Any) -> _Form:
    leaves, spec = pytree.tree_flatten(tree)
    tensors = (
        (each.dtype, each.shape) if isinstance(each, Tensor) else (type(each), each) for each in leaves
    )
    return _Form(spec, tuple(tensors))


def _blank(leaf: Any) -> Any:
    return Blank(leaf.dtype, tuple(leaf.shape)) if isinstance(leaf, Tensor) else leaf
