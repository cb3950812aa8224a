"""Translates a program to ONNX, each boundary in it a node of the domain `dni_fx`.

The model defines that node as a function whose body is Identity, so a runtime that knows nothing of
dni_fx runs it unaided. A translation function of our own would not do: the exporter inlines what
it returns. A symbolic operator stays, and gets its definition once the exporter is through.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from dni_fx.errors import ExportError
from dni_fx.exporters import labels, naming, opsets
from dni_fx.exporters.weights import optimize_apart, weight_names

if TYPE_CHECKING:
    import onnx_ir

DOMAIN = "dni_fx"
"""The domain of the nodes that show boundaries."""

PRODUCER = "dni_fx"
"""What our models say made them."""

CONSTANTS = "dni_fx.constants"
"""The key under which a model carries, as JSON, the outputs that are the same whatever it is given.

A file returns tensors, so these are none of its outputs, and None is not even mentioned.
"""

_PACKAGES = {"onnx": "onnx", "onnx_ir": "onnx-ir", "onnxscript": "onnxscript"}
_CHECK_PACKAGES = {**_PACKAGES, "onnxruntime": "onnxruntime"}


@dataclass(frozen=True)
class Translation:
    """An ONNX model, and the program of plain operators that it was translated from.

    `origins` tells the node of `lowered` that has the same value, for the values of the model that have one.
    """

    model: onnx_ir.Model
    lowered: ExportedProgram
    origins: Mapping[onnx_ir.Value, str]

    @property
    def weights(self) -> list[str]:
        """The names of parameters and buffers, in the order of the program."""
        return weight_names(self.lowered)


def translate(program: ExportedProgram, *, keep_interfaces: bool, opset: int) -> Translation:
    """The program as an optimized ONNX model whose values and nodes have the names of the PyTorch model.

    The program is left as it was. Nodes tell their stage and module; nothing tells of this machine.
    Interfaces are not defined yet: `define_interface` does it.

    Raises:
        ExportError: ONNX cannot say what the program says, or not in this opset.
    """
    opsets.refuse_unknown(opset)
    try:
        exported = _exported(program, keep_interfaces, opset)
    except ExportError:
        raise
    except Exception as error:  # whatever a translation of one of hundreds of operators may raise
        raise ExportError(f"cannot translate the program to ONNX: {_root(error)}") from error
    model, lowered = exported.model, exported.exported_program
    assert lowered is not None
    opsets.refuse_other(opset, model.opset_imports[""])
    origins = naming.origins(model, lowered)
    labels.tidy(model)
    naming.rename(model, program)
    if constants := naming.constants(program):
        model.metadata_props[CONSTANTS] = json.dumps(constants)
    model.producer_name = PRODUCER
    model.producer_version = f"torch {torch.__version__}"
    return Translation(model, lowered, origins)


def _exported(program: ExportedProgram, keep_interfaces: bool, opset: int) -> torch.onnx.ONNXProgram:
    """What torch makes of the program, optimized, each node with the labels of where it came from."""
    plain = _with_copies(program).run_decompositions(
        dict.fromkeys(_interfaces(program), _as_node if keep_interfaces else _as_nothing)
    )
    _refuse_what_onnx_lacks(plain)
    _drop_constants(plain)
    # Optimizing joins nodes, after which it can no longer be told where each came from.
    exported = torch.onnx.export(
        plain, dynamo=True, verbose=False, opset_version=opset or None, optimize=False
    )
    assert exported is not None  # it is None for the exporter before this one only
    assert exported.exported_program is not None
    labels.put(exported.model, exported.exported_program)
    optimize_apart(exported.model, weight_names(exported.exported_program), exported.optimize)
    return exported


def interface_nodes(graph: onnx_ir.Graph) -> list[onnx_ir.Node]:
    """The nodes that show boundaries, in order; those in branches as well."""
    import onnx_ir

    return [node for node in onnx_ir.traversal.RecursiveGraphIterator(graph) if node.domain == DOMAIN]


def define_interface(model: onnx_ir.Model) -> tuple[str, ...]:
    """Give the model the function `dni_fx::interface`; the boundaries that its nodes name, in order."""
    import onnx_ir

    nodes = interface_nodes(model.graph)
    if nodes:
        value = onnx_ir.Value(name="value")
        same = onnx_ir.node("Identity", [value])
        body = onnx_ir.Graph([value], same.outputs, nodes=[same], opset_imports={"": model.opset_imports[""]})
        same.outputs[0].name = "same"
        boundary = onnx_ir.Attr("boundary", onnx_ir.AttributeType.STRING, None)
        function = onnx_ir.Function(DOMAIN, "interface", graph=body, attributes=[boundary])
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1
    return tuple(node.attributes["boundary"].as_string() for node in nodes)


def count_nodes(model: onnx_ir.Model) -> int:
    """How many nodes a model has, those in branches as well."""
    import onnx_ir

    return sum(1 for _ in onnx_ir.traversal.RecursiveGraphIterator(model.graph))


def is_dynamic(model: onnx_ir.Model) -> bool:
    """Whether a size of an input may vary."""
    return any(not value.shape.is_static() for value in model.graph.inputs if value.shape is not None)


def _interfaces(program: ExportedProgram) -> set[Any]:
    """The operator `dni_fx::interface` if the program, or a branch in it, calls it."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, fx.GraphModule)]
    return {
        node.target
        for graph in graphs
        for node in graph.nodes
        if str(node.target) == "dni_fx.interface.default"
    }


def _as_node(value: Tensor, boundary: str) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::interface",
        (value,),
        {"boundary": boundary},
        dtype=value.dtype,
        shape=value.shape,
        version=1,
        metadata_props={labels.BOUNDARY: boundary},
    )


def _as_nothing(value: Tensor, boundary: str) -> Tensor:
    return value.clone()


def _with_copies(program: ExportedProgram) -> ExportedProgram:
    """The program with a copy wherever it wants a value to be contiguous; the given one is left as it was.

    Where a fused operator happens to return what is contiguous already, the copy is left out when the program
    is decomposed. What the exporter then makes of the operator is not, and the next view of it fails.
    """
    module = fx.GraphModule(program.graph_module, copy.deepcopy(program.graph))
    module.meta.update(program.graph_module.meta)
    for node, twin in zip(program.graph.nodes, module.graph.nodes, strict=True):
        twin.name = node.name  # a copy would call `input` otherwise, and signatures speak of names
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.contiguous.default):
        node.target = torch.ops.aten.clone.default
        node.args = node.args[:1]
        node.kwargs = {"memory_format": torch.contiguous_format}
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )


def _drop_constants(plain: ExportedProgram) -> None:
    """Return None in the place of numbers and texts: the exporter takes nothing else that is no tensor."""
    (output,) = plain.graph.find_nodes(op="output")
    output.args = (tuple(each if isinstance(each, fx.Node) else None for each in output.args[0]),)
    for spec in plain.graph_signature.output_specs:
        if isinstance(spec.arg, ConstantArgument):
            spec.arg = ConstantArgument(spec.arg.name, None)
    plain.graph_module.recompile()


def _refuse_what_onnx_lacks(lowered: ExportedProgram) -> None:
    """An ONNX graph is a function from tensors to tensors.

    Raises:
        ExportError: the program writes to its state or its inputs, or has side effects. Lists all of these.
    """
    state = (
        "and a file keeps no state: let the model write to it in train mode alone, and export in eval mode"
    )
    caller = "which who runs a file does not see: let the model return a new value instead"
    kinds = {
        OutputKind.BUFFER_MUTATION: ("the buffer", state),
        OutputKind.PARAMETER_MUTATION: ("the parameter", state),
        OutputKind.USER_INPUT_MUTATION: ("its input", caller),
    }
    problems: list[str] = []
    for spec in lowered.graph_signature.output_specs:
        if spec.kind in kinds:
            what, why = kinds[spec.kind]
            problems.append(f"it writes to {what} {spec.target!r}, {why}")
    if any(str(node.target) == "dni_fx.follow.default" for node in lowered.graph.nodes):
        problems.append(
            "it branches on data, and a file could not tell when data takes another way: compute both ways "
            "and choose with torch.where"
        )
    if any(spec.kind is InputKind.TOKEN for spec in lowered.graph_signature.input_specs):
        problems.append("it has side effects, and an ONNX file has none")
    if problems:
        listed = "".join(f"\n  * {problem}" for problem in problems)
        raise ExportError(f"cannot write this program as ONNX:{listed}")


def _root(error: BaseException) -> str:
    """What went wrong at first: the exporter's own errors wrap it in advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def require_packages(check: bool, exporter: str) -> None:
    """Do nothing if what writes ONNX is installed, and what runs it, if it is to be checked.

    Raises:
        ExportError: something is not. Says what, and how to get it.
    """
    wanted = _CHECK_PACKAGES if check else _PACKAGES
    missing = [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]
    if missing:
        without = (
            f" Or skip the comparison with PyTorch: {exporter}:check=false."
            if missing == ["onnxruntime"]
            else ""
        )
        raise ExportError(
            f'cannot write ONNX: {", ".join(missing)} not installed. Install with pip install "dni-fx[onnx]".'
            + without
        )


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """No warnings and no log lines of torch's exporter: they speak of its code, and we check what it made."""
    loggers = {name: logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    levels = {name: logger.level for name, logger in loggers.items()}
    try:
        for logger in loggers.values():
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
