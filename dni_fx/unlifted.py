"""An exported program as a graph over a tree of modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.node import map_arg

from dni_fx.program import Capture
from dni_fx.sizes import Sizes, sizes_of

_KEPT = ("nn_module_stack", "custom")


def capture_of(
    program: ExportedProgram, tree: nn.Module, fixed: Mapping[int, Any], notes: Sequence[str] = ()
) -> Capture:
    """The graph of a program, reading parameters and buffers of `tree` by their names.

    `fixed` holds the inputs, by their places in the flat list of all, that are no tensors: they become
    part of the graph.
    """
    module = program.module(check_guards=False)
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    sizes = _fix(graph, fixed)
    constants = _constants(graph, module, tree)
    for node in graph.nodes:  # fake tensors and their symbols are not for keeping
        node.meta = {key: node.meta[key] for key in _KEPT if key in node.meta}
    out_spec = program.call_spec.out_spec
    assert out_spec is not None
    return Capture(graph, out_spec, constants, tuple(notes), sizes)


def _fix(graph: fx.Graph, fixed: Mapping[int, Any]) -> Sizes:
    """Leave only placeholders of tensors; returns the sizes that they must have."""
    inputs: list[Tensor] = []
    for i, node in enumerate([node for node in graph.nodes if node.op == "placeholder"]):
        if i not in fixed:
            inputs.append(node.meta["val"])
            continue
        for user in list(node.users):
            user.args = map_arg(user.args, lambda n, node=node, i=i: fixed[i] if n is node else n)
            user.kwargs = map_arg(user.kwargs, lambda n, node=node, i=i: fixed[i] if n is node else n)
        graph.erase_node(node)
    return sizes_of(inputs)


def _constants(graph: fx.Graph, module: fx.GraphModule, tree: nn.Module) -> dict[str, Any]:
    """Tensors and graphs of regions that the program holds and the tree does not."""
    found: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op != "get_attr" or _resolves(tree, str(node.target)):
            continue
        value: Tensor | nn.Module = attrgetter(str(node.target))(module)
        node.target = f"_constant_{id(value):x}"
        found[node.target] = value
    return found


def _resolves(tree: nn.Module, path: str) -> bool:
    try:
        return isinstance(attrgetter(path)(tree), Tensor | nn.Module)
    except AttributeError:
        return False
