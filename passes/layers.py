"""Calls of torch's recurrent layers in a graph, whichever front-end wrote them down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from passes.anchors import Anchor, anchor_of, base_of, module_of
from passes.boundary import ValueSpec
from passes.values import value_of

_KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_ARGUMENTS = 9
_FORWARDS = {nn.LSTM: nn.LSTM.forward, nn.GRU: nn.GRU.forward, nn.RNN: nn.RNN.forward}
_AHEAD = (
    "it is bidirectional, and its second direction reads the sequence from the end, so there is no time "
    "at which its state holds the past alone: leave it out with module=, or use a layer that reads one way"
)
_PACKED = (
    "it takes a packed sequence, whose samples end at different times: pad the batch and mask the loss, or "
    "leave it out with module="
)
_ODD = "it has hooks, or a forward of its own, that are to see the whole sequence: leave it out with module="
_SINGLE = "its input has no batch dimension: add one with unsqueeze, or leave it out with module="


@dataclass(frozen=True)
class Layer:
    """One call: its inputs and the state it is given, None if it makes zeros itself.

    `kind` is that of the operator, or empty for a call of a module. `steps` is the length of the example,
    and `refusal` says why the call cannot run in chunks; empty if it can.
    """

    kind: str
    inputs: Any
    state: Any
    rest: tuple[Any, ...]
    batch_first: bool
    steps: int = 1
    refusal: str = ""


def layer_of(gm: fx.GraphModule, node: fx.Node) -> Layer | None:
    """The call that a node is; None if it is something else."""
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        return _of_module(node, module) if isinstance(module, nn.RNNBase) else None
    name = str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""
    kind, _, overload = name.partition(".")
    is_called = kind in _KINDS and node.target in (getattr(torch, kind), *_overloads(kind))
    if not is_called or len(node.args) != _ARGUMENTS or not isinstance(node.args[0], fx.Node):
        return None
    inputs, state, *rest = node.args
    if overload == "data" or not isinstance(rest[1], bool):
        return Layer(kind, inputs, state, (), False, refusal=_PACKED)
    *_, bidirectional, batch_first = rest
    return _checked(Layer(kind, inputs, state, tuple(rest), bool(batch_first)), bool(bidirectional), 3)


def state_of(gm: fx.GraphModule, node: fx.Node, layer: Layer) -> tuple[ValueSpec, ...]:
    """What a boundary has to know of the state: one row for each sample, with all layers in it."""
    shapes = [value_of(each).shape for each in _flat(layer.state)] if layer.kind else []
    inputs = value_of(layer.inputs)
    assert inputs.shape is not None
    assert inputs.dtype is not None
    batch = inputs.shape[0 if layer.batch_first else 1]
    features = [shape[0] * shape[2] for shape in shapes if shape is not None]
    if not layer.kind:
        module: Any = gm.get_submodule(str(node.target))
        widths = [module.proj_size or module.hidden_size, module.hidden_size]
        features = [module.num_layers * width for width in widths[: 2 if module.mode == "LSTM" else 1]]
    place = anchor_of(node)
    return tuple(ValueSpec(place, (batch, count), ("b", count), inputs.dtype, 0, 1) for count in features)


def name_of(anchor: Anchor) -> Anchor:
    """What a layer is called in a plan: the path of its module, or the operation if that is the model."""
    return Anchor(module_of(base_of(anchor)) or base_of(anchor))


def _of_module(node: fx.Node, module: nn.RNNBase) -> Layer | None:
    arguments = dict(zip(("input", "hx"), node.args, strict=False)) | dict(node.kwargs)
    inputs = arguments.get("input")
    if not isinstance(inputs, fx.Node):
        return None
    layer = Layer("", inputs, arguments.get("hx"), (), module.batch_first)
    if not value_of(inputs).is_tensor:
        return Layer("", inputs, None, (), False, refusal=_PACKED)
    return _checked(layer, module.bidirectional, 3, "" if _is_plain(module) else _ODD)


def _checked(layer: Layer, bidirectional: bool, dims: int, odd: str = "") -> Layer:
    shape = value_of(layer.inputs).shape or ()
    if len(shape) != dims:
        refusal, steps = _SINGLE, 1
    else:
        refusal, steps = _AHEAD if bidirectional else odd, shape[1 if layer.batch_first else 0]
    return Layer(layer.kind, layer.inputs, layer.state, layer.rest, layer.batch_first, steps, refusal)


def _is_plain(module: nn.RNNBase) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # pyright: ignore[reportPrivateUsage]
    forward = next((each for kind, each in _FORWARDS.items() if isinstance(module, kind)), None)
    return type(module).forward is forward and "forward" not in vars(module) and not any(hooks)


def _overloads(kind: str) -> tuple[Any, ...]:
    packet = getattr(torch.ops.aten, kind)
    return packet.input, packet.data


def _flat(state: Any) -> list[fx.Node]:
    return list(state) if isinstance(state, list | tuple) else [state]
