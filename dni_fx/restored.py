"""A model read from a file: graphs and tensors, no Python code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch.export import ExportedProgram
from typing_extensions import override

from dni_fx.calls import Call, Form, call_of
from dni_fx.errors import CaptureError, SizesError
from dni_fx.hooks import hooks_of, passed_by
from dni_fx.program import Capture, FrontEnd, Program, signature_of
from passes.anchors import ANCHOR, part_of
from passes.code import compile_graph


@dataclass(frozen=True)
class Saved(FrontEnd):
    """The graphs that a file holds, by mode. Nothing else can be captured of what came from a file."""

    name = "saved"
    holds_all = True

    captures: Mapping[bool, Capture] = field(default_factory=dict[bool, Capture])
    form: Form | None = None
    missing: str = ""
    where: str = "this file"

    @override
    def __str__(self) -> str:
        return self.name

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        """The graph for the model's mode.

        Raises:
            CaptureError: the file holds none for this mode, or for calls of another form, or there is a hook
                that no graph from a file runs.
        """
        found = self.captures.get(model.training)
        if found is None:
            mode = "train" if model.training else "eval"
            raise CaptureError(f"{self.where} holds no graph for {mode} mode: {self.missing}")
        if self.form is not None and (self.form.spec, self.form.constants) != (
            call.form.spec,
            call.form.constants,
        ):
            raise CaptureError(f"the graphs in {self.where} {_apart(self.form, call.form)}.")
        if not found.fits(call):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in call.leaves)
            raise SizesError(
                f"the graph in {self.where} takes inputs of sizes {found.sizes.fixed}, and got {shapes}."
            )
        for path, module in passed_by(found.graph, model):
            if any(hooks_of(module)):
                raise CaptureError(
                    f"{self.where} holds a graph that would not run the hook on {path}. Remove it, or "
                    "register it on the model itself."
                )
        return found


def _apart(held: Form, called: Form) -> str:
    """In what a call differs from those that a graph is for."""
    if held.names != called.names:
        return f"take ({', '.join(held.names)}), and this call passes ({', '.join(called.names)})"
    if held.spec == called.spec:
        fixed = [
            f"{theirs!r} for {ours!r}"
            for (_, ours), (_, theirs) in zip(held.constants, called.constants, strict=False)
            if ours != theirs
        ]
        return f"fix what is no tensor, and this call passes {', '.join(fixed) or 'other values'}"
    return (
        f"take ({', '.join(held.names)}) beside {len(held.constants)} other values, and this call passes "
        f"them beside {len(called.constants)}, or nests them in another way"
    )


class Restored(nn.Module):
    """Stands for a model whose class is not at hand: it has its tensors, its modes and its signature."""

    _program: Program

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the saved graph for the present mode returns.

        Raises:
            CaptureError: the file holds no graph for this mode or for these arguments.
        """
        call = call_of(signature_of(self), args, kwargs)
        capture = self._program.capture(self, call)
        capture.install(self)
        return pytree.tree_unflatten(compile_graph(capture.graph)(self, *call.leaves), capture.out_spec)


def restored_class(name: str, signature: inspect.Signature) -> type[Restored]:
    """A class that looks like the model's own: its name, and the signature of its forward."""

    def forward(self: Restored, *args: Any, **kwargs: Any) -> Any:
        return Restored.forward(self, *args, **kwargs)

    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    vars(forward)["__signature__"] = signature.replace(parameters=[me, *signature.parameters.values()])
    return type(name, (Restored,), {"forward": forward, "__doc__": Restored.__doc__})


def plant(tree: nn.Module, program: ExportedProgram, order: Sequence[str] = ()) -> None:
    """Register every parameter and buffer of a program in `tree`, under its own name."""
    signature = program.graph_signature
    parameters = set(signature.parameters)
    loose = set(signature.non_persistent_buffers)
    tensors: dict[str, Any] = dict(program.state_dict)
    tensors |= {name: value for name, value in program.constants.items() if name in loose}
    for name in [*(n for n in order if n in tensors), *(n for n in tensors if n not in set(order))]:
        path, _, leaf = name.rpartition(".")
        owner = _owner(tree, path)
        if name in parameters or isinstance(tensors[name], nn.Parameter):
            owner.register_parameter(leaf, tensors[name])
        else:
            owner.register_buffer(leaf, tensors[name], persistent=name not in loose)


def _owner(tree: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else []:
        if part not in dict(tree.named_children()):
            tree.add_module(part, nn.Module())
        tree = tree.get_submodule(part)
    return tree


def without_markers(graph: fx.Graph, anchors: Mapping[str, str]) -> None:
    """Take the calls of `dni_fx::interface` out of a graph; what is left is the captured graph.

    `anchors` tells, by the name that the call gives, the anchor of the value in front of it. The operation
    that made it may have been part of another one when the file was written. What torch.export adds
    behind the call, to check the value, bears the same anchor and is not the value.
    """
    owners: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target is torch.ops.dni_fx.interface.default:
            (value,) = node.all_input_nodes
            owners[anchors[node.args[1]]] = value
            node.replace_all_uses_with(value)
            graph.erase_node(node)
    for node in graph.nodes:
        custom = node.meta.get("custom") or {}
        anchor = custom.get(ANCHOR)
        if anchor in owners and owners[anchor] < node:
            node.meta["custom"] = custom | {ANCHOR: part_of(anchor)}
    for anchor, value in owners.items():
        value.meta["custom"] = (value.meta.get("custom") or {}) | {ANCHOR: anchor}
