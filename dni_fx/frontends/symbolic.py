"""Capture by running the model's Python code on proxies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError
from dni_fx.frontends.side_effects import SideEffects, random_state, set_random_state
from dni_fx.program import Capture, FrontEnd


@dataclass(frozen=True)
class Symbolic(FrontEnd):
    """`torch.fx` symbolic tracing. A submodule that cannot be traced stays whole, as one opaque node.

    Modules of `torch.nn` stay whole as well, so they follow `train()` and `eval()` by themselves.
    """

    name = "symbolic"

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        tracer = _Tracer(call)
        before, effects = set(model.__dict__), SideEffects(model)
        try:
            graph = tracer.trace(model)
            effects.check()
        except Exception as error:  # the model's own code runs here and may raise anything
            raise CaptureError(f"{type(error).__name__}: {first_line(error)}") from error
        constants = _rename_constants(
            graph, {name: model.__dict__[name] for name in set(model.__dict__) - before}
        )
        notes = [f"symbolic: {len(graph.nodes)} nodes"]
        notes += [f"symbolic: kept {path} whole ({reason})" for path, reason in tracer.opaque.items()]
        assert tracer.out_spec is not None
        return Capture(graph, tracer.out_spec, constants, tuple(notes))


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), "")


class _Tracer(fx.Tracer):
    """Keeps what it cannot trace whole, and refuses what a graph would leave out in silence."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.proxy_buffer_attributes = True  # a buffer read at capture would be a constant ever after
        self.call = call
        self.out_spec: pytree.TreeSpec | None = None
        self.opaque: dict[str, str] = {}
        self._regions = _regions()
        self._random = random_state()

    @override
    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One placeholder for each tensor of the call; everything else is as in the example."""
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self.call.form.names]

        def flat(*leaves: fx.Proxy) -> list[Any]:
            args, kwargs = self.call.form.rebuild(leaves)
            outputs, self.out_spec = pytree.tree_flatten(self.root.forward(*args, **kwargs))
            return outputs

        return flat, proxies

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    @override
    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        last, stack, calls = (
            next(iter(reversed(self.graph.nodes))),
            self.module_stack.copy(),
            self.num_calls.copy(),
        )
        try:
            effects = SideEffects(m)
            result = super().call_module(m, forward, args, kwargs)
            effects.check()
            return result
        except Exception as error:  # the model's own code runs here and may raise anything
            set_random_state(self._random)
            self._roll_back(last)
            self.module_stack, self.num_calls = stack, calls
            self.opaque[path] = f"{type(error).__name__}: {first_line(error)}"
            return super().call_module(m, forward, args, kwargs)

    @override
    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        if kind != "placeholder" and _regions() != self._regions:
            raise CaptureError("a no_grad or autocast region, which a traced graph would leave out")
        return super().create_node(kind, *args, **kwargs)

    @override
    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        for name in [name for name, proxy in parameter_proxy_cache.items() if proxy.node._erased]:
            del parameter_proxy_cache[name]  # its node was rolled back
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _roll_back(self, last: fx.Node) -> None:
        for node in reversed(self.graph.nodes):
            if node is last:
                return
            self.graph.erase_node(node)


def _regions() -> tuple[Any, ...]:
    devices = ("cpu", "cuda")
    casts = tuple((torch.is_autocast_enabled(each), torch.get_autocast_dtype(each)) for each in devices)
    return torch.is_grad_enabled(), casts


def _rename_constants(graph: fx.Graph, found: dict[str, Any]) -> dict[str, Any]:
    """Give constants of the code names that no other capture of the same model uses."""
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    names = {name: f"_constant_{id(value):x}" for name, value in tensors.items()}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in names:
            node.target = names[str(node.target)]
    return {names[name]: value for name, value in tensors.items()}
