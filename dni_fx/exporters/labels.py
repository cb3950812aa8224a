"""What the nodes of an ONNX model tell of the PyTorch model: their stage, module and boundary.

Viewers such as Netron show it beside each node. What torch's exporter puts there is replaced: its
stack traces name folders of the machine that exported.
"""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

from torch import fx
from torch.export import ExportedProgram

from dni_fx.exported import STAGE
from passes.anchors import ANCHOR, anchor_of, base_of, module_of, set_anchors
from passes.boundary import CONTAINER

if TYPE_CHECKING:
    import onnx_ir

MODULE = "dni_fx.module"
"""The path of the module whose call a node is part of. `STAGE` is the key of its stage."""
BOUNDARY = "dni_fx.boundary"
"""The name of the boundary that a node shows."""

_KEPT = (STAGE, MODULE, BOUNDARY, "namespace")  # the last one is what model viewers group nodes by
_SCOPES = "pkg.torch.onnx.name_scopes"


def put(model: onnx_ir.Model, lowered: ExportedProgram) -> None:
    """Label the nodes of a fresh translation with what the nodes of its program carry."""
    set_anchors(lowered.graph)
    nodes = {node.name: node for node in lowered.graph.nodes}
    for node in model.graph:
        origin = nodes.get(_origin(node))
        if origin is not None and "anchor" in origin.meta:
            node.metadata_props.update(_labels(origin))


def tidy(model: onnx_ir.Model) -> None:
    """Leave no labels but ours, and name each node by its module's path and operator: `encoder/MatMul_1`."""
    import onnx_ir

    counts: Counter[str] = Counter()
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        kept = {key: node.metadata_props[key] for key in _KEPT if node.metadata_props.get(key)}
        _replace(node.metadata_props, kept)
        node.doc_string = None
        name = _name(node, kept)
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name] - 1}"
        for value in node.outputs:
            _replace(value.metadata_props, {})
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        _replace(value.metadata_props, {})
    for holder in (model, model.graph):
        holder.doc_string = None
        _replace(holder.metadata_props, {})


def _labels(origin: fx.Node) -> dict[str, str]:
    custom = origin.meta.get("custom") or {}
    found = {STAGE: str(custom[STAGE])} if STAGE in custom else {}
    # An operation that the exporter adds of its own, in between, has no place in the model.
    module = (
        module_of(base_of(anchor_of(origin)))
        if ANCHOR in custom or origin.meta.get("nn_module_stack")
        else ""
    )
    return found | ({MODULE: module} if module else {})


def _origin(node: onnx_ir.Node) -> str:
    """The name of the program's node that a node was translated from; empty if it does not say."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))
    return str(scopes[-1])


def _name(node: onnx_ir.Node, labels: dict[str, str]) -> str:
    if BOUNDARY in labels:
        return f"{CONTAINER}.{labels[BOUNDARY]}"
    return f"{labels[MODULE]}/{node.op_type}" if MODULE in labels else node.op_type


def _replace(props: dict[str, str], kept: dict[str, str]) -> None:
    props.clear()
    props.update(kept)
