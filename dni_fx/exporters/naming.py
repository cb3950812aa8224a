"""Names of the values of an ONNX model: those that a caller knows, and those of the boundaries."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import torch.utils._pytree as pytree
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind

from dni_fx.exporters import agreement, labels

if TYPE_CHECKING:
    import onnx_ir


def origins(model: onnx_ir.Model, lowered: ExportedProgram) -> dict[onnx_ir.Value, str]:
    """The node of the program that has the same value, for the computed values that the exporter named so."""
    known = {node.name for node in lowered.graph.nodes if node.op == "call_function"}
    values = [value for node in model.graph for value in node.outputs]
    return {value: value.name for value in values if value.name is not None and value.name in known}


def rename(model: onnx_ir.Model, program: ExportedProgram) -> None:
    """Name inputs and outputs as the program does, boundaries as themselves, and the batch size `batch`.

    The exporter names an output after the operation that made it, and renames an input that is
    returned as well. What would be called alike gets `_out` behind its name.
    """
    _rename_values(model, agreement.inputs(program), output_names(program))
    _rename_batch(model)


def _rename_values(model: onnx_ir.Model, inputs: list[str], outputs: list[str]) -> None:
    import onnx_ir

    graph = model.graph
    weights = set(graph.initializers)
    fresh: dict[onnx_ir.Value, str] = dict(zip(graph.inputs, inputs, strict=True))
    crossing = [
        (node.outputs[0], node.metadata_props[labels.BOUNDARY])
        for node in graph
        if labels.BOUNDARY in node.metadata_props and not node.outputs[0].is_graph_output()
    ]
    taken = set(inputs) | weights
    for value, name in [*zip(graph.outputs, outputs, strict=True), *crossing]:
        if value.name in weights:  # a weight that is returned as it is keeps its name
            continue
        while name in taken:
            name += "_out"
        taken.add(name)
        fresh[value] = name
    wanted = set(fresh.values())
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value.name in wanted and value not in fresh:
                value.name = f"{value.name}__inner"
    for value, name in fresh.items():
        value.name = name


def output_names(program: ExportedProgram) -> list[str]:
    """The names of what the program computes, as `named_outputs` tells them."""
    return [name for name, arg in named_outputs(program) if not isinstance(arg, ConstantArgument)]


def constants(program: ExportedProgram) -> dict[str, Any]:
    """The numbers and texts that the program returns whatever it is given, by the names of their places."""
    found = [(name, arg.value) for name, arg in named_outputs(program) if isinstance(arg, ConstantArgument)]
    return {name: value for name, value in found if value is not None}


def named_outputs(program: ExportedProgram) -> list[tuple[str, Any]]:
    """`logits` if the program returns it by that name, `output` if it is alone, else `output_0` and on."""
    specs = [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    steps = [[str(k)] for k in range(len(specs))]
    # A container may be unable to tell the places of its items.
    with contextlib.suppress(ValueError):
        if (form := program.call_spec.out_spec) is not None:
            places = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(len(specs)), form))[0]
            steps = [[pytree.keystr((key,)).strip("[].'\"") for key in path] for path, _ in places]
    return [
        ("_".join(path if path and not path[0].isdecimal() else ["output", *path]), spec.arg)
        for spec, path in zip(specs, steps, strict=True)
    ]


def _rename_batch(model: onnx_ir.Model) -> None:
    """Call the first size of the first input `batch`, where it varies under a name of the exporter's."""
    import onnx_ir

    shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
    first = shapes[0][0] if shapes and len(shapes[0]) else None
    if not isinstance(first, onnx_ir.SymbolicDim) or not re.fullmatch(r"s\d+", str(first.value)):
        return
    symbol = re.compile(rf"\b{first.value}\b")
    values = {value for node in model.graph.all_nodes() for value in node.outputs}
    for value in [*model.graph.inputs, *values]:
        if value.shape is not None and not value.shape.is_static():
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            value.shape = onnx_ir.Shape(
                symbol.sub("batch", dim) if isinstance(dim, str) else dim for dim in dims
            )
