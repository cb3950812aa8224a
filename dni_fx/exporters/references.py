"""What each stage of a written model must compute: the values of the program that it was translated from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec
from torch.fx.node import Argument, Target
from typing_extensions import override


def references(lowered: ExportedProgram, leaves: list[Any], names: Collection[str]) -> dict[str, Any]:
    """The values of these nodes when PyTorch runs the program of plain operators on these inputs."""
    remaining = iter(leaves)
    args = [_argument(lowered, spec, remaining) for spec in lowered.graph_signature.input_specs]
    runner = _Recorder(lowered.graph_module, names)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        runner.run(*args)
    return runner.found


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self.names = names
        self.found: dict[str, Any] = {}

    @override
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.found[n.name] = value
        return value

    @override
    def call_function(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]) -> Any:
        # A symbolic operator is for the exporter alone; the only ones that we put there are identities.
        if getattr(target, "namespace", "") == "onnx_symbolic":
            (values, *_) = args
            assert isinstance(values, list | tuple)
            return values[0]
        return super().call_function(target, args, kwargs)


def _argument(lowered: ExportedProgram, spec: InputSpec, leaves: Any) -> Any:
    if spec.kind is InputKind.USER_INPUT:
        leaf = next(leaves)
        return spec.arg.value if isinstance(spec.arg, ConstantArgument) else leaf
    assert spec.target is not None
    if spec.target in lowered.state_dict:
        return lowered.state_dict[spec.target]
    return lowered.constants[spec.target]
