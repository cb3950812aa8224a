"""Small annotated graphs for the tests beside this file."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.annotate_shapes import annotate
from passes.values import Value, value_of


class Call(nn.Module):
    """Any function, kept whole in a graph."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def whole(function: Callable[..., Any] | nn.Module, *examples: Tensor) -> fx.GraphModule:
    """A graph of one call, annotated."""
    graph = fx.Graph()
    inputs = [graph.placeholder(f"x{position}") for position in range(len(examples))]
    graph.output(graph.call_module("call", tuple(inputs)))
    call = function if isinstance(function, nn.Module) else Call(function)
    gm = fx.GraphModule({"call": call}, graph)
    annotate(gm, examples)
    return gm


def trace(function: Callable[..., Any] | nn.Module, *examples: Tensor) -> fx.GraphModule:
    """A symbolic graph, annotated."""
    gm = fx.symbolic_trace(function)
    annotate(gm, examples)
    return gm


def exported(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """An exported graph, not yet annotated."""
    dims = ({0: torch.export.Dim("batch", min=2)},)
    return torch.export.export(model, (example,), dynamic_shapes=dims).module()


def kept(model: nn.Module) -> fx.GraphModule:
    """A graph in which every child of the model is one node."""

    class Whole(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    return fx.GraphModule(model, Whole().trace(model))


def last(gm: fx.GraphModule) -> Value:
    """The value of the node before the output."""
    return value_of(list(gm.graph.nodes)[-2])


def calls(gm: fx.GraphModule) -> list[Value]:
    """The values of the nodes that compute something."""
    return [value_of(node) for node in gm.graph.nodes if node.op.startswith("call")]
