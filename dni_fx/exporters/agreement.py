"""Compares what an ONNX file computes with what its PyTorch program computes.

That a file runs says nothing: the exporter translates some programs wrongly and silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from dni_fx.errors import ExportError
from passes.words import counted

_TOLERANCE = 1e-5  # two libraries sum in different orders; 32-bit sums of a few thousand terms stay within it


@dataclass(frozen=True)
class Case:
    """Inputs to try, and what PyTorch makes of them.

    `leaves` are all inputs of the program, `feeds` those that a file has, by name; `expected` are the outputs
    that a file has. `said` tells the shapes of the inputs.
    """

    leaves: list[Any]
    feeds: Mapping[str, NDArray[Any]]
    expected: list[Tensor]
    said: str


def cases(program: ExportedProgram) -> Iterator[Case]:
    """The example, and if any input size may vary the same with every such size another.

    Raises:
        ExportError: there is no example, or the program does not run at sizes that it says it takes.
    """
    if program.example_inputs is None:
        raise ExportError(
            "cannot compare the file with PyTorch: the program carries no example inputs. "
            "Capture it again with an example, or skip the comparison with the option check=false."
        )
    module, names = program.module(), inputs(program)
    leaves, form = pytree.tree_flatten(program.example_inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for tried in _sizes(program, leaves):
            args, kwargs = pytree.tree_unflatten(tried, form)
            try:
                returned = pytree.tree_leaves(module(*args, **kwargs))
            except Exception as error:  # guards of the program, or an operator that dislikes the size
                raise ExportError(
                    f"PyTorch refuses sizes that the program says it takes, {_shapes(tried)}: {error}"
                ) from error
            fed = dict(zip(names, map(array, _variable(_arguments(program), tried)), strict=True))
            expected = [torch.as_tensor(leaf) for leaf in _variable(_results(program), returned)]
            yield Case(tried, fed, expected, _shapes(tried))


def check(path: Path, program: ExportedProgram) -> float:
    """The largest difference between the file and the program, on the example and at other sizes.

    Floats agree within 1e-5, absolute plus relative to the output's largest element (8 units of rounding
    where a dtype is coarser); all else is equal.

    Raises:
        ExportError: they disagree, or one of them does not run. Says by how much and for which shapes.
    """
    return max(_compare(path, case) for case in cases(program))


def array(leaf: Any) -> NDArray[Any]:
    """A tensor or a number as onnxruntime takes it; complex numbers as pairs of real ones."""
    tensor = torch.as_tensor(leaf).detach().cpu()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).numpy()


def inputs(program: ExportedProgram) -> list[str]:
    """The name of each input that is not a constant, in order."""
    arguments = _arguments(program)
    return [arg.name for arg in _variable(arguments, arguments)]


def _variable(arguments: list[Any], leaves: list[Any]) -> list[Any]:
    """The leaves that a file has: a constant is part of the program."""
    pairs = zip(arguments, leaves, strict=True)
    return [leaf for arg, leaf in pairs if not isinstance(arg, ConstantArgument)]


def _arguments(program: ExportedProgram) -> list[Any]:
    signature = program.graph_signature
    return [spec.arg for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]


def _results(program: ExportedProgram) -> list[Any]:
    signature = program.graph_signature
    return [spec.arg for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]


def _compare(path: Path, case: Case) -> float:
    import onnx.checker
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    try:
        onnx.checker.check_model(str(path))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = session.run(None, dict(case.feeds))
    except Exception as error:  # its exceptions have no common base but this
        raise ExportError(
            f"onnxruntime cannot run the file on {case.said}: {error}\n"
            "Nothing was written. To write it for another runtime, skip the comparison: option check=false."
        ) from error
    names = [output.name for output in session.get_outputs()]
    if len(names) != len(case.expected):
        raise ExportError(
            f"the file has {counted(len(names), 'output')}, and the program has {len(case.expected)}."
        )
    return max(
        (
            difference(name, want.detach().cpu(), torch.as_tensor(got), case.said)
            for name, want, got in zip(names, case.expected, found, strict=True)
        ),
        default=0.0,
    )


def difference(name: str, expected: Tensor, found: Tensor, shapes: str) -> float:
    """The largest difference of two outputs.

    Raises:
        ExportError: it is too large, or they differ in shape or dtype.
    """
    want, got = ((tuple(x.shape), x.dtype) for x in (expected, found))
    if want != got:
        raise ExportError(f"output {name!r} of the file is {got}, and PyTorch's is {want}, on {shapes}.")
    equal = (expected == found) | (expected.isnan() & found.isnan())
    if bool(equal.all()):
        return 0.0
    gap = float(torch.where(equal, 0.0, (expected.double() - found.double()).abs()).max())
    allowed = 0.0
    if expected.is_floating_point():
        largest = float(torch.where(expected.isfinite(), expected, 0).double().abs().max())
        allowed = max(_TOLERANCE, 8 * torch.finfo(expected.dtype).eps) * (1 + largest)
    if 0.0 < gap <= allowed:
        return gap
    raise ExportError(
        f"output {name!r} in the file is off by {gap:.3g} from PyTorch's (allowed {allowed:.3g}) on {shapes}"
        ". Nothing was written. In training mode batch norm is translated wrongly and dropout is random: "
        "export the model in eval() mode. To write the file all the same: option check=false."
    )


def _sizes(program: ExportedProgram, leaves: list[Any]) -> list[list[Any]]:
    """The example's leaves and, if any size may vary, the same stretched so that each such size differs."""
    nodes = {node.name: node for node in program.graph.nodes}
    values = [
        leaf if isinstance(arg, ConstantArgument) else nodes[arg.name].meta["val"]
        for arg, leaf in zip(_arguments(program), leaves, strict=True)
    ]
    now: dict[Any, int] = {}
    for value, leaf in zip(values, leaves, strict=True):
        for dim, size in _dims(value, leaf):
            if isinstance(dim, torch.SymInt) and len(dim.node.expr.free_symbols) == 1:
                (symbol,) = dim.node.expr.free_symbols
                at_0, at_1 = (int(dim.node.expr.subs(symbol, at)) for at in (0, 1))  # export allows a * s + b
                now[symbol] = (size - at_0) // (at_1 - at_0)
    other = {symbol: _another(size, program.range_constraints.get(symbol)) for symbol, size in now.items()}
    if other == now:
        return [leaves]
    return [leaves, [_stretch(value, leaf, other) for value, leaf in zip(values, leaves, strict=True)]]


def _dims(value: Any, leaf: Any) -> list[tuple[Any, int]]:
    if isinstance(leaf, Tensor):
        return list(zip(value.shape, leaf.shape, strict=True))
    return [(value, leaf)] if isinstance(value, torch.SymInt) else []


def _another(size: int, allowed: Any) -> int:
    """A size beside this one in the allowed range; the size itself if it is alone there."""
    if allowed is None or bool(allowed.upper > size):
        return size + 1
    return size - 1 if size > 1 and bool(allowed.lower < size) else size


def _stretch(value: Any, leaf: Any, other: Mapping[Any, int]) -> Any:
    """The leaf at other sizes: its items over again, floats smaller step by step so that no two are equal."""
    for axis, (dim, _) in enumerate(_dims(value, leaf)):
        if not isinstance(dim, torch.SymInt):
            continue
        size = int(dim.node.expr.subs(other))
        if not isinstance(leaf, Tensor):
            return size
        steps = torch.arange(size, device=leaf.device)
        leaf = leaf.index_select(axis, steps % leaf.shape[axis])
        if leaf.is_floating_point():
            fade = 1 - steps / (2 * size)
            leaf = leaf * fade.to(leaf.dtype).view([-1 if k == axis else 1 for k in range(leaf.ndim)])
    return leaf


def _shapes(leaves: list[Any]) -> str:
    return "inputs of " + ", ".join(
        f"shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves
    )
