"""Memory that one node writes and another reads: what in-place operations forbid a cut to do.

A cut gives each side its own copy of what crosses. That is harmless for the usual in-place operation,
whose input nobody looks at again, and wrong for a reader that expects to see what was written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx
from torch import fx

from passes.values import value_of


@dataclass(frozen=True)
class Hazard:
    """`reader` sees what `writer` wrote though it does not read the writer's result.

    `owners` are the values made before the write that share the memory. Writer, reader and owners work
    on one memory only as long as they are in one stage.
    """

    writer: fx.Node
    reader: fx.Node
    owners: tuple[fx.Node, ...]

    @property
    def is_order_only(self) -> bool:
        """Whether the memory is the model's own, a buffer, which every stage sees as the last one left it."""
        return all(owner.op == "get_attr" for owner in self.owners)


class Memory:
    """Which values of a graph share memory, and who reads and writes it. O((V + E) * aliases)."""

    def __init__(self, graph: fx.Graph) -> None:
        self._position = {node: position for position, node in enumerate(graph.nodes)}
        sets: nx.utils.UnionFind[str] = nx.utils.UnionFind()
        for node in graph.nodes:
            sets.union(node.name, *value_of(node).aliases)
        self._sharing: dict[str, list[fx.Node]] = defaultdict(list)
        for node in graph.nodes:
            self._sharing[sets[node.name]].append(node)
        self._written = {
            node: sorted({sets[name] for name in value_of(node).mutates})
            for node in graph.nodes
            if value_of(node).mutates
        }

    def hazards(self) -> Iterator[Hazard]:
        """Every later read of written memory that does not go through the writer's own result."""
        for writer, owners in self._writes():
            for owner in owners:
                for reader in owner.users:
                    if self._position[reader] > self._position[writer]:
                        yield Hazard(writer, reader, owners)

    def overwrites(self) -> Iterator[tuple[fx.Node, fx.Node]]:
        """Reader and writer, where the reader must be done when the writer runs."""
        for writer, owners in self._writes():
            for owner in owners:
                for reader in owner.users:
                    if self._position[reader] < self._position[writer]:
                        yield reader, writer

    def _writes(self) -> Iterator[tuple[fx.Node, tuple[fx.Node, ...]]]:
        for writer, written in self._written.items():
            for memory in written:
                before = self._position[writer]
                yield writer, tuple(n for n in self._sharing[memory] if self._position[n] < before)
