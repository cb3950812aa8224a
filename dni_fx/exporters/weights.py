"""Weights of an ONNX model: tied ones are one, and others stay apart even where their numbers are equal."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

if TYPE_CHECKING:
    import onnx_ir


def weight_names(program: ExportedProgram) -> list[str]:
    """The names of a program's parameters and buffers, in its order."""
    kinds = {InputKind.PARAMETER, InputKind.BUFFER}
    specs = program.graph_signature.input_specs
    return [spec.target for spec in specs if spec.kind in kinds and spec.target is not None]


def optimize_apart(model: onnx_ir.Model, names: Collection[str], optimize: Callable[[], None]) -> None:
    """Optimize a model and leave each of these weights its name.

    The optimizer makes small weights one whose numbers happen to be equal, such as all norms of a fresh
    model; who looks for a weight by its name would not find it. Outputs it leaves alone.
    """
    import onnx_ir.passes.common

    _join_tied(model)
    outputs = model.graph.outputs
    count = len(outputs)
    outputs.extend(
        value
        for name, value in model.graph.initializers.items()
        if name in names and not value.is_graph_output()
    )
    optimize()
    del outputs[count:]
    onnx_ir.passes.common.RemoveUnusedNodesPass()(model)


def _join_tied(model: onnx_ir.Model) -> None:
    """Make weights one that lie in the same memory in the same way."""
    first: dict[Any, onnx_ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        raw = getattr(value.const_value, "raw", None)
        if not isinstance(raw, Tensor) or not raw.numel() or value.is_graph_output():
            continue
        key = raw.data_ptr(), raw.dtype, raw.shape, raw.stride(), raw.device
        if (known := first.setdefault(key, value)) is not value:
            value.replace_all_uses_with(known)
            del model.graph.initializers[name]
