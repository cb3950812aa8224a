"""Capture through torch.export."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError
from dni_fx.frontends.symbolic import first_line
from dni_fx.program import Capture, FrontEnd


@dataclass(frozen=True)
class Export(FrontEnd):
    """Non-strict `torch.export` with a dynamic batch, down to single tensor operations.

    Mode and dtype are baked into the graph. The first dimension of every tensor input that has the
    first one's size there is the batch.
    """

    name = "export"

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        program = exported(model, call)
        module = program.module(check_guards=False)
        graph = fx.Graph()
        graph.output(graph.graph_copy(module.graph, {}))
        sizes = _drop_constants(graph, call)
        constants = _constants(graph, module, model)
        for node in graph.nodes:  # fake tensors and their symbols are not for keeping
            node.meta = {key: node.meta[key] for key in ("nn_module_stack", "custom") if key in node.meta}
        notes = [f"export: {len(graph.nodes)} nodes"]
        if not any(None in size for size in sizes):
            notes.append("export: the batch size is fixed, since the model computes with it as a number")
        out_spec = program.call_spec.out_spec
        assert out_spec is not None
        return Capture(graph, out_spec, constants, tuple(notes), sizes)


def exported(model: nn.Module, call: Call) -> torch.export.ExportedProgram:
    """`torch.export` of a model for this call, its batch dynamic where the model allows it.

    Raises:
        CaptureError: torch.export refuses the model; says why in a line.
    """
    # torch.export takes an example of one for a constant; two samples leave the batch open.
    batch = call.batch
    leaves = [
        torch.cat([leaf, leaf]).detach().requires_grad_(leaf.requires_grad)
        if batch == 1 and leaf.dim() and leaf.shape[0] == 1
        else leaf
        for leaf in call.leaves
    ]
    args, kwargs = call.form.rebuild(leaves)
    shapes = torch.export.ShapesCollection()
    for leaf, before in zip(leaves, call.leaves, strict=True):
        if before.dim() and before.shape[0] == batch:
            shapes[leaf] = {0: torch.export.Dim.AUTO}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own internals; what matters comes as an error
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=shapes.dynamic_shapes(model, args, kwargs), strict=False
            )
    except Exception as error:  # the model's own code runs here and may raise anything
        raise CaptureError(f"{type(error).__name__}: {first_line(error)}") from error


def _drop_constants(graph: fx.Graph, call: Call) -> tuple[tuple[int | None, ...], ...]:
    """Leave the tensors' placeholders alone; returns the sizes that each of them must have."""
    fixed = dict(call.form.constants)
    sizes: list[tuple[int | None, ...]] = []
    for i, node in enumerate([node for node in graph.nodes if node.op == "placeholder"]):
        if i not in fixed:
            shape = node.meta["val"].shape
            sizes.append(tuple(size if isinstance(size, int) else None for size in shape))
            continue
        for user in list(node.users):
            user.args = fx.node.map_arg(user.args, lambda n, node=node, i=i: fixed[i] if n is node else n)
            user.kwargs = fx.node.map_arg(user.kwargs, lambda n, node=node, i=i: fixed[i] if n is node else n)
        graph.erase_node(node)
    return tuple(sizes)


def _constants(graph: fx.Graph, module: fx.GraphModule, model: nn.Module) -> dict[str, Any]:
    """Tensors and graphs of regions that the exported module holds and the model does not."""
    found: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op != "get_attr" or _resolves(model, str(node.target)):
            continue
        value: Tensor | nn.Module = attrgetter(str(node.target))(module)
        node.target = f"_constant_{id(value):x}"
        found[node.target] = value
    return found


def _resolves(model: nn.Module, path: str) -> bool:
    try:
        attrgetter(path)(model)
    except AttributeError:
        return False
    return True
