"""The operator `dni_fx::follow`: where a graph took one way of several that depend on data.

A graph has no branches. One captured from code that asks for the numbers in a tensor is right for as
long as they are what they were then, and this operator looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import has_side_effect

from passes.errors import GraphError

Way = tuple[float, ...]
"""The numbers that code saw in a tensor, in order; 0 and 1 for False and True."""


class BranchError(GraphError):
    """The data takes another way than the one that the graph was captured for."""

    def __init__(self, index: int, found: Way) -> None:
        super().__init__(
            f"the data takes another way: at branch {index} of the forward pass the code sees "
            f"{', '.join(f'{number:g}' for number in found)}, for which this graph was not captured. Run the "
            "model from its code, which captures one more graph."
        )
        self.index = index
        self.found = found

    def __reduce__(self) -> tuple[Any, ...]:
        return BranchError, (self.index, self.found)


@torch.library.custom_op("dni_fx::follow", mutates_args=())
def follow(value: Tensor, way: Sequence[float], index: int) -> None:
    """Do nothing if the numbers in `value` are those of `way`.

    Raises:
        BranchError: they are not; `index` says at which branch of the graph.
    """
    found = numbers(value.tolist())
    if len(found) != len(way) or not all(map(_is_same, found, way)):
        raise BranchError(index, found)


@follow.register_fake
def _(value: Tensor, way: Sequence[float], index: int) -> None:
    return None


has_side_effect(torch.ops.dni_fx.follow.default)


def numbers(value: Any) -> Way:
    """What code saw in a tensor as one flat tuple, from a number or nested lists of them."""
    if isinstance(value, list):
        return tuple(number for item in value for number in numbers(item))
    return (float(value),)


def ways_of(graph: fx.Graph, held: Mapping[str, Any] | None = None) -> tuple[Way, ...]:
    """The ways that a graph takes at its branches, in the order in which it comes to them.

    `held` holds, by name, what its `get_attr` nodes speak of: among it may be graphs of regions.
    """
    found = {index: way for node in graph.nodes for index, way in ways_in(node, held or {})}
    return tuple(found[index] for index in sorted(found))


def ways_in(node: fx.Node, held: Mapping[str, Any]) -> Iterator[tuple[int, Way]]:
    """The branches, each with its number and its way, that a node of a graph stands for."""
    if node.target is torch.ops.dni_fx.follow.default:
        yield int(node.args[2]), tuple(node.args[1])  # pyright: ignore[reportArgumentType]
        return
    for source in node.all_input_nodes:
        body = held.get(str(source.target)) if source.op == "get_attr" else None
        if isinstance(body, fx.GraphModule):
            for inner in body.graph.nodes:
                yield from ways_in(inner, {**vars(body)["_modules"], **vars(body)})


def _is_same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
