"""A model that is a graph already."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch.utils._pytree as pytree
from torch import fx, nn
from torch.fx import _pytree as fx_pytree
from torch.fx.graph import CodeGen
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError
from dni_fx.program import Capture, FrontEnd, signature_of
from passes.words import counted

_KEPT = ("nn_module_stack", "custom")


@dataclass(frozen=True)
class Captured(FrontEnd):
    """The graph of a `torch.fx.GraphModule`, node by node. Nothing is traced, so no name can choose it."""

    name = "captured"

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        """The model's own graph, for the tensors of this call.

        Raises:
            CaptureError: the call does not have the form that the graph was made for.
        """
        assert isinstance(model, fx.GraphModule)
        graph = fx.Graph()
        given = [graph.placeholder(name) for name in call.form.names]
        copies: dict[fx.Node, Any] = dict(_inputs(model, *call.form.rebuild(given)))
        outputs, out_spec = _outputs(model, graph.graph_copy(model.graph, copies))
        graph.output(outputs)
        for node in graph.nodes:  # fake tensors and their symbols are not for keeping
            node.meta = {key: node.meta[key] for key in _KEPT if key in node.meta}
        return Capture(
            graph, out_spec, notes=(f"captured: {counted(len(graph.nodes), 'node')}, as they were handed in",)
        )


def is_captured(model: nn.Module) -> bool:
    """Whether a model does what its graph says, in a form that can be taken over."""
    if not isinstance(model, fx.GraphModule) or "forward" in vars(model):
        return False
    code = model.graph._codegen  # pyright: ignore[reportPrivateUsage]
    starred = any(str(node.target).startswith("*") for node in model.graph.nodes if node.op == "placeholder")
    return not starred and (type(code) is CodeGen or _tree_of(model) is not None)


def is_stale(model: fx.GraphModule) -> bool:
    """Whether the graph was changed after the code was made that runs."""
    return model.code != model.graph.python_code("self").src


def _tree_of(model: fx.GraphModule) -> Any:
    """How the code flattens arguments and puts results together; None where the graph does it itself."""
    return getattr(model.graph._codegen, "pytree_info", None)  # pyright: ignore[reportPrivateUsage]


def _inputs(
    model: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[fx.Node, Any]]:
    """What each placeholder of the model's graph stands for in a call."""
    placeholders = [node for node in model.graph.nodes if node.op == "placeholder"]
    bound = inspect.BoundArguments(signature_of(model), signature_of(model).bind(*args, **kwargs).arguments)
    bound.apply_defaults()
    tree = _tree_of(model)
    values = list(bound.arguments.values())
    if tree is not None and placeholders:
        try:
            values = fx_pytree.tree_flatten_spec(_nested(values, tree.in_spec), tree.in_spec)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise CaptureError(
                f"this graph was made for arguments of the form {tree.in_spec}: {error}"
            ) from error
    return list(zip(placeholders, values, strict=True))


def _nested(values: list[Any], spec: pytree.TreeSpec) -> Any:
    """Arguments in the order of the signature, as a tree of the form that the code flattens."""
    children = spec.children()
    if spec.type is tuple and [child.type for child in children] == [tuple, dict]:
        first = children[0].num_children
        return tuple(values[:first]), dict(zip(children[1].context, values[first:], strict=True))
    return tuple(values)


def _outputs(model: fx.GraphModule, returned: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The flat list of what a graph returns, and the nesting that its callers see."""
    tree = _tree_of(model)
    if tree is not None and tree.out_spec is not None:
        flat = returned if isinstance(returned, list | tuple) else (returned,)
        return list(cast("tuple[Any, ...]", flat)), tree.out_spec
    return pytree.tree_flatten(_plain(returned))


def _plain(value: Any) -> Any:
    """A value with ordinary containers in the place of those that a graph keeps."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, tuple):
        items = [_plain(each) for each in cast("tuple[Any, ...]", value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return [_plain(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value
