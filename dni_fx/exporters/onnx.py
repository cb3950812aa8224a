"""Writes ONNX files in which every boundary is a node of the domain `dni_fx`.

The file defines that node as a function whose body is Identity, so a runtime that knows nothing of
dni_fx runs it unaided. A translation function of our own would not do: the exporter inlines what
it returns. A symbolic operator stays, and gets its definition once the exporter is through.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from typing_extensions import override

from dni_fx.errors import ExportError, FileError
from dni_fx.exporters import agreement
from dni_fx.exporters.base import Exporter, Written

if TYPE_CHECKING:
    import onnx_ir

_DOMAIN = "dni_fx"
_PACKAGES = {"onnx": "onnx", "onnx_ir": "onnx-ir", "onnxscript": "onnxscript"}
_CHECK_PACKAGES = {**_PACKAGES, "onnxruntime": "onnxruntime"}
# A protobuf message ends at 2 GiB, and while it is made, its weights are in memory three times, and again
# when the file is run: more than these get a file of their own, which is written and read piece by piece.
_WEIGHTS_INSIDE = 2**28


@dataclass(frozen=True)
class Onnx(Exporter):
    """An ONNX file of an inference program, compared with PyTorch before it is put in its place.

    `keep_interfaces` shows each boundary as a node of the domain dni_fx; without it the graph is
    plain. `opset` 0 is what the installed torch exports to. `check` runs the file with onnxruntime on the
    example inputs, and again at other sizes where sizes may vary.
    """

    name = "onnx"
    keep_interfaces: bool = True
    opset: int = 0
    check: bool = True

    @override
    def write(self, program: ExportedProgram, path: Path) -> Written:
        _require_packages(self.check)
        _require_place(path)
        with _quiet():
            model, names = self._translate(program)
            return self._write(model, names, program, path)

    def _translate(self, program: ExportedProgram) -> tuple[onnx_ir.Model, tuple[str, ...]]:
        """The model, and the boundary of each interface node in it."""
        rule = _as_node if self.keep_interfaces else _as_nothing
        try:
            lowered = program.run_decompositions(dict.fromkeys(_interfaces(program), rule))
            _refuse_what_onnx_lacks(lowered)
            exported = torch.onnx.export(
                lowered, dynamo=True, verbose=False, opset_version=self.opset or None
            )
        except ExportError:
            raise
        except Exception as error:  # whatever a translation of one of hundreds of operators may raise
            raise ExportError(f"cannot translate the program to ONNX: {_root(error)}") from error
        assert exported is not None  # it is None for the exporter before this one only
        model = exported.model
        if self.opset and model.opset_imports[""] != self.opset:
            raise ExportError(
                f"cannot write opset {self.opset}: the conversion stopped at opset "
                f"{model.opset_imports['']}. Leave opset out to get the one that this torch writes best."
            )
        _rename(model, agreement.inputs(program), _output_names(program))
        model.producer_name = "dni_fx"
        model.producer_version = f"torch {torch.__version__}"
        return model, _define_interface(model)

    def _write(
        self, model: onnx_ir.Model, names: tuple[str, ...], program: ExportedProgram, path: Path
    ) -> Written:
        import onnx_ir

        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                files = _save(model, Path(folder) / path.name)
                difference = agreement.check(files[0], program) if self.check else None
                _install(files, path.parent)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error}. What was there is as it was.") from error
        return Written(
            path=path,
            files=tuple(path.parent / file.name for file in files),
            nodes=sum(1 for _ in onnx_ir.traversal.RecursiveGraphIterator(model.graph)),
            interfaces=names,
            opset=model.opset_imports[""],
            dynamic=any(
                not value.shape.is_static() for value in model.graph.inputs if value.shape is not None
            ),
            difference=difference,
        )


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
        f"{_DOMAIN}::interface",
        (value,),
        {"boundary": boundary},
        dtype=value.dtype,
        shape=value.shape,
        version=1,
        metadata_props={"dni_fx.boundary": boundary},
    )


def _as_nothing(value: Tensor, boundary: str) -> Tensor:
    return value.clone()


def _define_interface(model: onnx_ir.Model) -> tuple[str, ...]:
    """Give the model the function `dni_fx::interface`; the boundaries that its nodes name, in order."""
    import onnx_ir

    nodes = [node for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph) if node.domain == _DOMAIN]
    if nodes:
        value = onnx_ir.Value(name="value")
        same = onnx_ir.node("Identity", [value])
        body = onnx_ir.Graph([value], same.outputs, nodes=[same], opset_imports={"": model.opset_imports[""]})
        same.outputs[0].name = "same"
        boundary = onnx_ir.Attr("boundary", onnx_ir.AttributeType.STRING, None)
        function = onnx_ir.Function(_DOMAIN, "interface", graph=body, attributes=[boundary])
        model.functions[function.identifier()] = function
        model.opset_imports[_DOMAIN] = 1
    return tuple(node.attributes["boundary"].as_string() for node in nodes)


def _rename(model: onnx_ir.Model, inputs: list[str], outputs: list[str]) -> None:
    """Give inputs and outputs the names that a caller knows.

    The exporter names an output after the operation that made it, and renames an input that is
    returned as well.
    """
    import onnx_ir

    graph = model.graph
    weights = set(graph.initializers)
    fresh: dict[onnx_ir.Value, str] = dict(zip(graph.inputs, inputs, strict=True))
    for value, name in zip(graph.outputs, outputs, strict=True):
        while name in weights or name in fresh.values():
            name += "_out"
        if value.name not in weights:  # a weight that is returned as it is keeps its name
            fresh[value] = name
    taken = set(fresh.values())
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value.name in taken and value not in fresh:
                value.name = f"{value.name}__inner"
    for value, name in fresh.items():
        value.name = name


def _output_names(program: ExportedProgram) -> list[str]:
    """`logits` if the program returns it by that name, `output` if it is alone, else `output_0` and on."""
    specs = [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    steps = [[str(k)] for k in range(len(specs))]
    # A container may be unable to tell the places of its items.
    with contextlib.suppress(ValueError):
        if (form := program.call_spec.out_spec) is not None:
            places = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(len(specs)), form))[0]
            steps = [[pytree.keystr((key,)).strip("[].'\"") for key in path] for path, _ in places]
    return [
        "_".join(path if path and not path[0].isdecimal() else ["output", *path])
        for spec, path in zip(specs, steps, strict=True)
        if not isinstance(spec.arg, ConstantArgument)
    ]


def _refuse_what_onnx_lacks(lowered: ExportedProgram) -> None:
    """An ONNX graph is a function from tensors to tensors.

    Raises:
        ExportError: the program writes to its state or its inputs, or returns a constant. Lists all of these.
    """
    kinds = {
        OutputKind.BUFFER_MUTATION: "the buffer",
        OutputKind.PARAMETER_MUTATION: "the parameter",
        OutputKind.USER_INPUT_MUTATION: "its input",
    }
    problems: list[str] = []
    for spec in lowered.graph_signature.output_specs:
        if spec.kind in kinds:
            what = f"{kinds[spec.kind]} {spec.target!r}"
            problems.append(f"it writes to {what}, and a file keeps no state (use eval() mode)")
        elif isinstance(spec.arg, ConstantArgument) and spec.arg.value is not None:
            problems.append(
                f"it returns the constant {spec.arg.value!r}, and a file returns tensors: leave it out"
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


def _require_packages(check: bool) -> None:
    wanted = _CHECK_PACKAGES if check else _PACKAGES
    missing = [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]
    if missing:
        without = (
            " Or skip the comparison with PyTorch: onnx:check=false." if missing == ["onnxruntime"] else ""
        )
        raise ExportError(
            f'cannot write ONNX: {", ".join(missing)} not installed. Install with pip install "dni-fx[onnx]".'
            + without
        )


def _require_place(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise FileError(f"cannot write {path}: {what}. Name a file in a folder that exists.")


@contextlib.contextmanager
def _quiet() -> Generator[None]:
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


def _save(model: onnx_ir.Model, path: Path) -> tuple[Path, ...]:
    import onnx_ir

    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    # The model names its weights' file by a path relative to its own: both keep their names when moved.
    data = f"{path.name}.data" if weights > _WEIGHTS_INSIDE else None
    onnx_ir.save(model, path, format="protobuf", external_data=data)
    return (path, path.parent / data) if data else (path,)


def _install(files: tuple[Path, ...], folder: Path) -> None:
    """Move the files to a folder, the first of them last; a failure puts back what was there."""
    model, *others = files
    with contextlib.ExitStack() as undo:
        for file in others:
            target = folder / file.name
            if target.exists():
                kept = file.with_name(f"{file.name}.old")
                target.replace(kept)
                undo.callback(kept.replace, target)
            else:
                undo.callback(target.unlink, missing_ok=True)
            file.replace(target)
        model.replace(folder / model.name)
        undo.pop_all()
