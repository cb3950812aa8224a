"""The hole that a cut leaves in a graph."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from typing_extensions import override

from passes.anchors import Anchor, anchor_of
from passes.values import Value, value_of


@dataclass(frozen=True)
class ValueSpec:
    """What is known of one crossing value before it is there.

    `shape` is its shape at the example; `dims` says which sizes follow the batch: an int
    is fixed, an expression such as `b` or `2*b+1` depends on the input's batch size `b`.
    `batch_dim` and `feature_dim` index the shape. The feature dimension comes from the
    operation that made the value: rank cannot tell (batch, time, features) from
    (batch, channels, length).
    """

    anchor: Anchor
    shape: tuple[int, ...]
    dims: tuple[int | str, ...]
    dtype: torch.dtype
    batch_dim: int = 0
    feature_dim: int = -1


@dataclass(frozen=True)
class BoundarySpec:
    """The values that cross one cut at one place, from the stage that makes them to their readers.

    Several values are synthesized jointly (an LSTM's h and c): one synthesizer sees and guesses for all.
    `delay` is 1 for state carried to the next step. A `group` names what is cut in time: its boundary lies
    inside of a stage and is called several times in one step, for the same state at other times.
    `classes` is how many classes a context of integer labels can have, 0 where that is not known or too many
    to prepare for unasked. `outputs` is how many features the first output of the model has, and `cost` the
    floating-point operations of the forward pass of the stage that makes the values; 0 if not known.
    """

    name: str
    values: tuple[ValueSpec, ...]
    producer: int
    consumers: tuple[int, ...]
    delay: int = 0
    rate: int = 1
    group: str = ""
    classes: int = 0
    outputs: int = 0
    cost: int = 0

    @property
    def value(self) -> ValueSpec:
        """The only value of a boundary that has one.

        Raises:
            ValueError: there are several.
        """
        (only,) = self.values
        return only

    @property
    def names(self) -> tuple[str, ...]:
        """What each value is called where stages hand it on: as the boundary, and the others numbered."""
        return value_names(self.name, len(self.values))

    @property
    def path(self) -> str:
        """The submodule's place in the model: what fills a boundary lives under `dni.`."""
        return f"{CONTAINER}.{self.name}"


CONTAINER = "dni"
"""The child module under which every boundary lives."""


class Boundary(nn.Module):
    """Identity. Marks a crossing; whoever gives the cut a meaning replaces the module.

    The spec lives here and not in `node.meta`, which does not survive pickling.
    """

    def __init__(self, spec: BoundarySpec) -> None:
        super().__init__()
        self.spec = spec

    @override
    def forward(self, *values: torch.Tensor) -> Any:
        (value, *rest) = values
        return values if rest else value


def value_names(boundary: str, count: int) -> tuple[str, ...]:
    """The names of the values of a boundary.

    >>> value_names("cell", 2)
    ('cell', 'cell.1')
    """
    return (boundary, *(f"{boundary}.{at}" for at in range(1, count)))


def boundaries(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, BoundarySpec]]:
    """Every boundary between stages of the graph, in order, whatever now fills it."""
    return ((node, spec) for node, spec in _held(gm) if not spec.group)


def moments(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, BoundarySpec]]:
    """Every place in the graph at which a boundary in time is called, or handed to what calls it."""
    return ((node, spec) for node, spec in _held(gm) if spec.group)


def _held(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, BoundarySpec]]:
    for node in gm.graph.nodes:
        if node.op in {"call_module", "get_attr"} and str(node.target).startswith(f"{CONTAINER}."):
            spec = getattr(gm.get_submodule(str(node.target)), "spec", None)
            if isinstance(spec, BoundarySpec):
                yield node, spec


def sides(node: fx.Node) -> tuple[tuple[fx.Node, fx.Node], ...]:
    """Each value that goes into a boundary's node, with the node that later stages read in its place."""
    values: tuple[Any, ...] = node.args
    if len(values) == 1:
        return ((values[0], node),)
    taken = {user.args[1]: user for user in node.users}
    return tuple((value, taken[at]) for at, value in enumerate(values))


def put_marker(graph: fx.Graph, nodes: Sequence[fx.Node], path: str) -> tuple[tuple[fx.Node, fx.Node], ...]:
    """Put one marker after the last of some values; each value with what stands for it behind the marker."""
    with graph.inserting_after(nodes[-1]):
        marker = graph.call_module(path, tuple(nodes))
    if len(nodes) > 1:
        marker.meta = dict(nodes[0].meta) | {"value": Value(requires_grad=True)}
        with graph.inserting_after(marker):
            for at in reversed(range(len(nodes))):
                graph.call_function(operator.getitem, (marker, at))
    return sides(marker)


def value_spec(node: fx.Node) -> ValueSpec:
    """What is known of a node's value, which is one tensor, for the boundary that it may cross."""
    value = value_of(node)
    assert value.shape is not None
    assert value.dtype is not None
    return ValueSpec(
        anchor_of(node), value.shape, value.dims, value.dtype, value.batch_dim, value.feature_dim
    )
