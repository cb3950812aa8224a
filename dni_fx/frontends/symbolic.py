"""Capture by running the model's Python code on proxies."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from typing_extensions import override

from dni_fx.calls import Call
from dni_fx.errors import CaptureError, reason_of
from dni_fx.frontends.side_effects import SideEffects
from dni_fx.frontends.trial import silence, try_hooks
from dni_fx.program import Capture, FrontEnd
from dni_fx.randomness import random_state, set_random_state
from passes.words import counted


@dataclass(frozen=True)
class Symbolic(FrontEnd):
    """`torch.fx` symbolic tracing. A submodule that cannot be traced stays whole, as one opaque node.

    Modules of `torch.nn` stay whole as well, so they follow `train()` and `eval()` by themselves.
    """

    name = "symbolic"

    @override
    def capture(self, model: nn.Module, call: Call) -> Capture:
        try_hooks(model, call)
        tracer = _Tracer(call)
        before, effects = set(model.__dict__), SideEffects(model)
        try:
            with silence():
                graph = tracer.trace(model)
            effects.check()
            tracer.check()
        except Exception as error:  # the model's own code runs here and may raise anything
            raise CaptureError(reason_of(error)) from error
        constants = _rename_constants(
            graph, {name: model.__dict__[name] for name in set(model.__dict__) - before}
        )
        notes = [f"symbolic: {counted(len(graph.nodes), 'node')}"]
        notes += [f"symbolic: kept {path} whole ({reason})" for path, reason in tracer.opaque.items()]
        assert tracer.out_spec is not None
        return Capture(graph, tracer.out_spec, constants, tuple(notes))


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
        self._refused: list[Exception] = []
        self._called: list[str] = []
        self._read: dict[str, Any] = {}
        self._owners: dict[int, tuple[str, dict[str, Any], str]] = {}

    def refuse(self, error: Exception) -> NoReturn:
        """Raise an error that counts even if the model's own code catches it."""
        self._refused.append(error)
        raise error

    def check(self, since: int = 0) -> None:
        """Raise what was refused since then, and caught by the code that was traced."""
        for error in self._refused[since:]:
            raise error

    @override
    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One placeholder for each tensor of the call; everything else is as in the example."""
        self._owners = _owners_of(self.root)
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
        self._called.append(path)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        last, stack = next(iter(reversed(self.graph.nodes))), self.module_stack.copy()
        refused, called = len(self._refused), len(self._called) - 1
        try:
            effects = SideEffects(m)
            result = super().call_module(m, forward, args, kwargs)
            effects.check()
            self.check(refused)
            return result
        except Exception as error:  # the model's own code runs here and may raise anything
            set_random_state(self._random)
            del self._refused[refused:]
            self._roll_back(last)
            self._forget_calls(called)
            self.module_stack = stack
            self.opaque[path] = reason_of(error)
            self._called.append(path)
            return super().call_module(m, forward, args, kwargs)

    @override
    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        if kind != "placeholder" and _regions() != self._regions:
            self.refuse(CaptureError("a no_grad or autocast region, which a traced graph would leave out"))
        return super().create_node(kind, *args, **kwargs)

    @override
    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A proxy for a parameter or buffer, as fx makes it; fx searches the whole model for each."""
        self._read = parameter_proxy_cache
        name, held, leaf = self._owners.get(id(attr_val), ("", {}, ""))
        if not name or held.get(leaf) is not attr_val:  # it came to the model since
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    @override
    def to_bool(self, obj: fx.Proxy) -> bool:
        try:
            return super().to_bool(obj)
        except TraceError as error:
            self.refuse(error)

    @override
    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        try:
            return super().iter(obj)
        except TraceError as error:
            self.refuse(error)

    @override
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def _roll_back(self, last: fx.Node) -> None:
        for node in reversed(self.graph.nodes):
            if node is last:
                return
            if node.op == "get_attr":
                self._read.pop(str(node.target), None)
            self.graph.erase_node(node)

    def _forget_calls(self, since: int) -> None:
        """Count calls as before the last ones: a copy of the counts at each call would be quadratic."""
        for path in self._called[since:]:
            self.num_calls[path] -= 1
        del self._called[since:]


class _Proxy(fx.Proxy):
    """A proxy that writes where the code writes: fx's own would make `x += 1` a new value."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        _refuse_number(self, "len")

    def __int__(self) -> int:
        _refuse_number(self, "int")

    def __float__(self) -> float:
        _refuse_number(self, "float")

    def __index__(self) -> int:
        _refuse_number(self, "index")


def _refuse_number(value: fx.Proxy, function: str) -> NoReturn:
    cast("_Tracer", value.tracer).refuse(
        TypeError(f"{function}() of a value that is not known before the graph runs")
    )


def _in_place(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def write(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return write


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Proxy, f"__{_name}__", _in_place(_name))


def _owners_of(root: nn.Module) -> dict[int, tuple[str, dict[str, Any], str]]:
    """Name of each parameter and buffer by identity, and the dictionary of its module that has it."""
    found: dict[int, tuple[str, dict[str, Any], str]] = {}
    for kind, named in (("_parameters", root.named_parameters()), ("_buffers", root.named_buffers())):
        for name, tensor in named:
            path, _, leaf = name.rpartition(".")
            found.setdefault(id(tensor), (name, vars(root.get_submodule(path))[kind], leaf))
    return found


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
