"""A function of named tensors as a program of plain operators, its gradients worked out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx import Graph
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from dni_fx.exporters.training.decompositions import Replaced, randomness, table

Function = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Tensors by name to tensors by name."""

SEED = "seed"
"""The argument by which random numbers are drawn, in a function that draws some."""


class NoSeedError(Exception):
    """A function draws random numbers, and has no argument to draw them by."""


@dataclass(frozen=True)
class Traced:
    """A program, and the names of what it takes and returns, in its order.

    It `is_fixed` if a size that might have varied is always that of the example in it.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_fixed: bool


class Shapes:
    """Tensors without data, in which sizes that follow the batch are symbols.

    Equal sizes that vary have one symbol, so a batch is one in all inputs of a model.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def of(self, tensor: Tensor, varying: frozenset[int] = frozenset()) -> Tensor:
        """A tensor of this shape, of which these dimensions vary."""
        sizes = [DimDynamic.DUCK if at in varying else DimDynamic.STATIC for at in range(tensor.dim())]
        context: Any = StatelessSymbolicContext(
            dynamic_sizes=sizes,
            dynamic_strides=[DimDynamic.INFER_STRIDE] * tensor.dim(),
            constraint_sizes=[None] * tensor.dim(),
        )
        return self.mode.from_tensor(tensor.detach(), symbolic_context=context)

    def another(self, tensor: Tensor) -> Tensor:
        """One more tensor of the same shape."""
        with self.mode:
            return torch.empty_like(tensor)


def trace(function: Function, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]) -> Traced:
    """The program of a function, whose arguments are like the `fake` ones; it is made at the `real` ones.

    Operators that ONNX lacks are taken apart, random ones by the argument `seed`. An argument that
    nothing hangs on is none of the program's.
    """
    names, made = list(real), list[str]()

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, tensors, strict=True))
        seed = given.get(SEED)
        with randomness.drawing(torch.zeros((), dtype=torch.int64) if seed is None else seed) as source:
            found = function(given)
        if seed is None and source.draws:
            raise NoSeedError("it draws random numbers, which stages of the model may do and nothing else")
        made[:] = list(found)
        return tuple(each.clone() for each in found.values())  # what is returned as it came needs a node

    with plain_kernels(), Replaced():
        module = make_fx(flat, decomposition_table=table(), tracing_mode="fake", _allow_non_fake_inputs=True)(
            *(fake[name] for name in names)
        )
    module.graph.eliminate_dead_code()
    _unview(module.graph)
    kept = _without_unread(module.graph, names)
    module.recompile()
    # A size that the function has asked for as a number is one from here on, or others would be wrong.
    varying = [_varying(fake[name]) for name in kept]
    shapes = tuple({at: Dim.AUTO for at, is_free in each.items() if is_free} for each in varying)
    with torch.no_grad():
        program = torch.export.export(
            _Wrapped(module),
            tuple(real[name].detach() for name in kept),
            dynamic_shapes={"tensors": shapes},
            strict=False,
        )
    return Traced(program, tuple(kept), tuple(made), _is_fixed(program, varying))


def _without_unread(graph: Graph, names: Sequence[str]) -> list[str]:
    """Remove the arguments of these names that nothing reads; returns the names of the others."""
    kept: list[str] = []
    for node, name in zip(graph.find_nodes(op="placeholder"), names, strict=True):
        if node.users:
            kept.append(name)
        else:
            graph.erase_node(node)
    return kept


def _unview(graph: Graph) -> None:
    """Make views reshapes: in the program a tensor may lie in memory otherwise than it did when traced."""
    for target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
        for node in graph.find_nodes(op="call_function", target=target):
            node.target = torch.ops.aten.reshape.default


def _varying(fake: Tensor) -> dict[int, bool]:
    """The dimensions of a tensor without data whose size is a symbol, and whether that still varies."""
    sizes = {at: size for at, size in enumerate(fake.shape) if isinstance(size, torch.SymInt)}
    return {at: bool(size.node.shape_env.replace(size.node.expr).free_symbols) for at, size in sizes.items()}


def _is_fixed(program: ExportedProgram, varying: Sequence[Mapping[int, bool]]) -> bool:
    """Whether one of these sizes, by inputs and their dimensions, varies no more."""
    nodes = program.graph.find_nodes(op="placeholder")[-len(varying) :] if varying else []
    pairs = [(node.meta["val"], at) for node, axes in zip(nodes, varying, strict=True) for at in axes]
    return any(isinstance(value.shape[at], int) for value, at in pairs)


@contextmanager
def plain_kernels() -> Generator[None]:
    """Inside, layers are made of operators that many have, and not of one that does it all at once."""
    # Recurrent layers are taken apart by the dispatcher in Python, and else want to know sizes.
    with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), enable_python_dispatcher():
        yield


class _Wrapped(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(*tensors)
