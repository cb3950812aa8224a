"""An ONNX model as one model for each stage.

The whole is translated and optimized once and then taken apart, so the parts compute with the very nodes
of the whole. Stages hand on what is a value of the PyTorch program. Whatever else the translation made, and
whatever hangs on weights alone, is made again in each stage that reads it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dni_fx.exported import STAGE
from dni_fx.exporters import labels
from dni_fx.exporters.translation import Translation

if TYPE_CHECKING:
    import onnx_ir

_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_EVERYWHERE = -1
"""The home of what hangs on no input: any stage that reads it computes it."""


@dataclass(frozen=True)
class Piece:
    """One stage: its number, its model, and what it reads and writes as values of the whole model's graph."""

    index: int
    reads: tuple[onnx_ir.Value, ...]
    writes: tuple[onnx_ir.Value, ...]
    model: onnx_ir.Model


def split(translation: Translation) -> list[Piece]:
    """The stages of a translated program, in order; each reads inputs and what stages before it write.

    A stage that makes nothing for anybody has no piece. Where no node tells its stage, a boundary
    ends the stage of what it marks, and what reads it is in the next. O(stages * (V + E)).
    """
    splitter = _Splitter(translation)
    demanded: defaultdict[int, set[onnx_ir.Value]] = defaultdict(set)
    for value in translation.model.graph.outputs:
        demanded[splitter.home_of(value)].add(value)
    pieces: list[Piece] = []
    for index in range(splitter.last, -1, -1):
        if index not in demanded:
            continue
        reads = splitter.reads(index, demanded[index])
        for value in reads:
            if value.producer() is not None:
                demanded[splitter.home_of(value)].add(value)
        pieces.append(splitter.piece(index, reads, demanded[index]))
    return pieces[::-1]


class _Splitter:
    """`homes` has the stage that computes each node, and writes its values for others to read."""

    def __init__(self, translation: Translation) -> None:
        self.model = translation.model
        self.graph = translation.model.graph
        self.origins = translation.origins
        self.homes: dict[onnx_ir.Node, int] = {}
        self.order = {value: at for at, value in enumerate(self.graph.inputs)}
        by_boundaries = not any(STAGE in node.metadata_props for node in self.graph)
        fed = {value: 0 for value in self.graph.inputs}
        """Values that hang on an input, with the stage in which what reads them can be, at the earliest."""
        for node in self.graph:
            read = [fed[value] for value in self.inputs_of(node) if value in fed]
            if read or node.op_type in _RANDOM:
                label = node.metadata_props.get(STAGE, "")
                home = int(label) if label else max(read, default=0)
                ends = by_boundaries and labels.BOUNDARY in node.metadata_props
                fed |= dict.fromkeys(node.outputs, home + ends)
            else:
                home = _EVERYWHERE
            self.homes[node] = home
            self.order |= {value: len(self.order) + at for at, value in enumerate(node.outputs)}
        self.last = max(self.homes.values(), default=0)

    def home_of(self, value: onnx_ir.Value) -> int:
        """The stage that writes a value; the last one if any stage could."""
        node = value.producer()
        home = _EVERYWHERE if node is None else self.homes[node]
        return max(self.last, 0) if home == _EVERYWHERE else home

    def inputs_of(self, node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
        """What a node reads of the graph, by itself or in a branch."""
        import onnx_ir

        inner = [onnx_ir.traversal.RecursiveGraphIterator(each) for each in _graphs_of(node)]
        for each in (node, *(found for nodes in inner for found in nodes)):
            for value in each.inputs:
                if value is not None and value.graph is self.graph:
                    yield value

    def reads(self, index: int, targets: set[onnx_ir.Value]) -> tuple[onnx_ir.Value, ...]:
        """What a stage takes from outside to compute these values, in order."""
        found: set[onnx_ir.Value] = set()
        seen, waiting = set(targets), list(targets)
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if node is None:
                if value.is_graph_input():
                    found.add(value)
            elif value not in targets and value in self.origins and 0 <= self.homes[node] < index:
                found.add(value)
            else:
                new = [each for each in self.inputs_of(node) if each not in seen]
                seen.update(new)
                waiting += new
        return self.sorted(found)

    def sorted(self, values: set[onnx_ir.Value]) -> tuple[onnx_ir.Value, ...]:
        """Inputs in the order of the model, then computed values in the order in which they are computed."""
        return tuple(sorted(values, key=lambda value: self.order.get(value, len(self.order))))

    def piece(self, index: int, reads: tuple[onnx_ir.Value, ...], targets: set[onnx_ir.Value]) -> Piece:
        """The stage as a model of its own; weights are shared with the whole."""
        import onnx_ir

        writes = self.sorted(targets)
        graph = onnx_ir.convenience.extract(self.graph, reads, writes)
        graph.name = f"stage_{index}"
        model = onnx_ir.Model(
            graph,
            ir_version=self.model.ir_version,
            producer_name=self.model.producer_name,
            producer_version=self.model.producer_version,
            functions=[function.clone() for function in self.model.functions.values()],
        )
        return Piece(index, reads, writes, model)


def _graphs_of(node: onnx_ir.Node) -> list[onnx_ir.Graph]:
    import onnx_ir

    kinds = onnx_ir.AttributeType
    found: list[onnx_ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == kinds.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == kinds.GRAPHS:
            found += attribute.as_graphs()
    return found
