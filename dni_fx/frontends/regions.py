"""Runs of a graph between a call that switches something on and the one that switches it off again.

`torch.no_grad()`, `torch.autocast` and `torch.vmap` are such pairs in a graph of TorchDynamo. A stage that
began between the two would leave the switch as it found it, so each run becomes one node, with a graph of its
own.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from dni_fx.errors import CaptureError
from passes.switches import switches_kept

# The functions that TorchDynamo puts into its graphs.
_switch_gradients: Any = attrgetter("_C._set_grad_enabled")(torch)
_enter_autocast: Any = attrgetter("amp.autocast_mode._enter_autocast")(torch)
_exit_autocast: Any = attrgetter("amp.autocast_mode._exit_autocast")(torch)

_OPENERS = {
    "_enter_autocast": "_exit_autocast",
    "_vmap_increment_nesting": "_vmap_decrement_nesting",
    "_grad_increment_nesting": "_grad_decrement_nesting",
    "_jvp_increment_nesting": "_jvp_decrement_nesting",
    "_enter_inference_mode": "_exit_inference_mode",
    "_saved_tensors_hooks_disable": "_saved_tensors_hooks_enable",
}
_CLOSERS = {closer: opener for opener, closer in _OPENERS.items()}
_SWITCH = "_set_grad_enabled"


@dataclass(frozen=True)
class Ambience:
    """Whether gradients and autocasting are on."""

    has_gradients: bool
    autocast: tuple[tuple[str, torch.dtype, bool], ...]

    @staticmethod
    def now() -> Ambience:
        """How it is now."""
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        autocast = tuple(
            (each, torch.get_autocast_dtype(each), torch.is_autocast_enabled(each)) for each in devices
        )
        return Ambience(torch.is_grad_enabled(), autocast)

    @contextlib.contextmanager
    def around(self, graph: fx.Graph) -> Generator[None]:
        """What is put into the graph inside runs as it would now; all else, as in this ambience."""
        now = Ambience.now()
        entered = [
            graph.call_function(_enter_autocast, (device, dtype, enabled, False))
            for (device, dtype, enabled), before in zip(now.autocast, self.autocast, strict=True)
            if before != (device, dtype, enabled)
        ]
        if now.has_gradients != self.has_gradients:
            graph.call_function(_switch_gradients, (now.has_gradients,))
        yield
        if now.has_gradients != self.has_gradients:
            graph.call_function(_switch_gradients, (self.has_gradients,))
        for each in reversed(entered):
            graph.call_function(_exit_autocast, (each,))


def run_region(body: fx.GraphModule, *values: Any) -> tuple[Any, ...]:
    """What the region's graph returns; if it raises, what it switched is switched back."""
    with contextlib.nullcontext() if torch.compiler.is_compiling() else switches_kept():
        return body(*values)


def outlined(graph: fx.Graph, constants: dict[str, Any]) -> fx.Graph:
    """A copy of a graph in which every region is one call of `run_region`, nested ones in the outermost.

    Their graphs are put into `constants`, and those constants that only they read.

    Raises:
        CaptureError: a region does not end.
    """
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for nodes in list(_regions(copy)):
        _outline(copy, nodes, constants)
    copy.lint()
    return copy


def _regions(graph: fx.Graph) -> Iterator[list[fx.Node]]:
    """The nodes of each outermost region, both switches included."""
    inside: list[fx.Node] = []
    switches: list[str] = []
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name in _OPENERS:
            switches.append(name)
        elif name == _SWITCH:
            _switch(switches, on=bool(node.args[0]))
        elif name in _CLOSERS and _CLOSERS[name] in switches:
            switches.remove(_CLOSERS[name])
        if switches or inside:
            if node.op == "output":
                raise CaptureError(f"a region that begins with {switches[-1]} does not end in forward")
            inside.append(node)
        if inside and not switches:
            yield inside
            inside = []


def _switch(switches: list[str], on: bool) -> None:
    """Gradients are on where a graph begins: to switch them off opens a region, to switch them on ends it."""
    if on and _SWITCH in switches:
        switches.remove(_SWITCH)
    elif not on and _SWITCH not in switches:
        switches.append(_SWITCH)


def _outline(graph: fx.Graph, nodes: list[fx.Node], constants: dict[str, Any]) -> None:
    """Put nodes that follow one another into a graph of their own, called where they were."""
    nodes = [node for node in nodes if node.op != "get_attr" or node.target in constants]
    members = set(nodes)
    reads = dict.fromkeys(s for node in nodes for s in node.all_input_nodes if s not in members)
    writes = [node for node in nodes if any(user not in members for user in node.users)]
    held = {str(node.target): constants[str(node.target)] for node in nodes if node.op == "get_attr"}
    body, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for source in reads:
        copies[source] = body.placeholder(source.name)
    for node in nodes:
        copies[node] = body.node_copy(node, copies.__getitem__)
    body.output(tuple(copies[node] for node in writes))
    root = nn.Module()
    vars(root).update(held)
    module = fx.GraphModule(root, body)
    name = f"_constant_{id(module):x}"
    constants[name] = module
    with graph.inserting_before(nodes[-1]):
        call = graph.call_function(run_region, (graph.get_attr(name), *reads))
        call.meta = dict(nodes[len(nodes) // 2].meta)
        for index, node in enumerate(writes):
            item = graph.call_function(operator.getitem, (call, index))
            item.meta = dict(node.meta)
            node.replace_all_uses_with(item, delete_user_cb=lambda user: user not in members)
    for node in reversed(nodes):
        graph.erase_node(node)
