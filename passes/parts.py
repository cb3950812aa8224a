"""A graph that runs on copies of what its nodes refer to, so that the model stays as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, fx, nn
from typing_extensions import override

from passes.shell import shell


def copied_parts(gm: fx.GraphModule, copied: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Copies of the modules, parameters and buffers that nodes refer to, by target."""
    held: dict[str, Any] = {}
    holder = nn.Module()
    for node in gm.graph.nodes:
        if node.op in {"call_module", "get_attr"}:
            found = functools.reduce(getattr, str(node.target).split("."), cast("Any", gm))
            part = vars(holder)["_modules"] if isinstance(found, nn.Module) else held
            part[str(node.target)] = found
    vars(holder)["held"] = held  # no child and no parameter: names with dots are refused there
    found = vars(shell(holder, copied))
    return {**found["_modules"], **found["held"]}


class OverParts(fx.Interpreter):
    """Runs a graph on the parts that are given for its modules, parameters and buffers, by target.

    With `keeps`, values stay until the end.
    """

    def __init__(self, gm: fx.GraphModule, parts: Mapping[str, Any], keeps: bool = False) -> None:
        super().__init__(gm, garbage_collect_values=not keeps)
        self.extra_traceback = False
        self.parts = parts

    @override
    def fetch_attr(self, target: str) -> Any:
        return self.parts[target]

    @override
    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.parts[target](*args, **kwargs)
