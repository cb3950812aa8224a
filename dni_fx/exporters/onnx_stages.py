"""Writes a folder with an ONNX file for each stage, and a manifest that says how to chain them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram
from typing_extensions import override

from dni_fx.errors import ExportError, FileError
from dni_fx.exporters import agreement, labels
from dni_fx.exporters.base import Exporter, Written
from dni_fx.exporters.chain import Array, Chain
from dni_fx.exporters.folders import check_folder, replacing_folder
from dni_fx.exporters.manifest import NAME, Manifest, Read, StageFile, Value, Write, read_manifest
from dni_fx.exporters.onnx import save
from dni_fx.exporters.parts import Piece, split
from dni_fx.exporters.references import references
from dni_fx.exporters.translation import (
    CONSTANTS,
    Translation,
    count_nodes,
    define_interface,
    interface_nodes,
    is_dynamic,
    quiet,
    require_packages,
    translate,
)

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True)
class OnnxStages(Exporter):
    """A folder with an ONNX file for each stage, each compared with PyTorch, alone and chained.

    `dni_fx.exporters.chain.Chain` runs it; `manifest.json` tells other programs how. `keep_interfaces` shows
    each boundary at the end of its stage as a node of the domain dni_fx; without it an Identity is there.
    `opset` and `check` are as for `onnx`. A weight that several stages read is in the file of each.
    """

    name = "onnx-stages"
    keep_interfaces: bool = True
    opset: int = 0
    check: bool = True

    @override
    def check_place(self, path: Path) -> None:
        check_folder(path, _files_of)

    @override
    def write(self, program: ExportedProgram, path: Path) -> Written:
        require_packages(self.check, self.name)
        self.check_place(path)
        with quiet():
            translation = translate(program, keep_interfaces=True, opset=self.opset)
            names = _shown(translation.model, self.keep_interfaces)
            pieces = split(translation)
            if not pieces:
                raise ExportError("cannot write stages: the model computes nothing.")
            try:
                return self._write(translation, pieces, names, program, path)
            except OSError as error:
                raise FileError(f"cannot write {path}: {error}. What was there is as it was.") from error

    def _write(
        self,
        translation: Translation,
        pieces: list[Piece],
        names: tuple[str, ...],
        program: ExportedProgram,
        path: Path,
    ) -> Written:
        with replacing_folder(path) as folder:
            files: list[tuple[Path, ...]] = []
            for piece in pieces:
                define_interface(piece.model)
                files.append(save(piece.model, folder / f"stage_{piece.index}.onnx"))
            manifest = _manifest(translation, pieces, files)
            (folder / NAME).write_text(manifest.to_json(), "utf-8")
            difference = _check(folder, translation, pieces, program) if self.check else None
        return Written(
            path=path,
            files=tuple(path / name for name in manifest.files),
            nodes=sum(count_nodes(piece.model) for piece in pieces),
            interfaces=names,
            opset=translation.model.opset_imports[""],
            dynamic=is_dynamic(translation.model),
            difference=difference,
        )


def _files_of(folder: Path) -> tuple[str, ...]:
    return read_manifest(folder).files


def _shown(model: onnx_ir.Model, keep_interfaces: bool) -> tuple[str, ...]:
    """The boundaries that the files will show; where they are not to, their nodes become plain ones."""
    nodes = interface_nodes(model.graph)
    if keep_interfaces:
        return tuple(node.metadata_props[labels.BOUNDARY] for node in nodes)
    for node in nodes:
        node.domain, node.op_type = "", "Identity"
        node.attributes.clear()
    return ()


def _manifest(translation: Translation, pieces: list[Piece], files: list[tuple[Path, ...]]) -> Manifest:
    whole = translation.model
    homes = {value: piece.index for piece in pieces for value in piece.writes}
    readers = {value: tuple(piece.index for piece in pieces if value in piece.reads) for value in homes}
    stages = tuple(
        StageFile(
            piece.index,
            model.name,
            data[0].name if data else "",
            tuple(Read(_value(each), homes.get(each)) for each in piece.reads),
            tuple(Write(_value(each), _boundary(each), readers[each]) for each in piece.writes),
        )
        for piece, (model, *data) in zip(pieces, files, strict=True)
    )
    weights: dict[str, list[int]] = {name: [] for name in translation.weights}
    for piece in pieces:
        for name in weights.keys() & piece.model.graph.initializers.keys():
            weights[name].append(piece.index)
    return Manifest(
        opset=whole.opset_imports[""],
        inputs=tuple(map(_value, whole.graph.inputs)),
        outputs=tuple(Read(_value(each), homes.get(each)) for each in whole.graph.outputs),
        stages=stages,
        shared={name: tuple(found) for name, found in weights.items() if len(found) > 1},
        constants=json.loads(whole.metadata_props.get(CONSTANTS, "{}")),
    )


def _value(value: onnx_ir.Value) -> Value:
    assert value.name is not None
    dtype = "unknown" if value.dtype is None else value.dtype.numpy().name
    shape = (
        ()
        if value.shape is None
        else tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    )
    return Value(value.name, dtype, shape)


def _boundary(value: onnx_ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.metadata_props.get(labels.BOUNDARY, "")


def _check(folder: Path, translation: Translation, pieces: list[Piece], program: ExportedProgram) -> float:
    """The largest difference from PyTorch: of each stage, given PyTorch's values, and of the chain.

    Raises:
        ExportError: one is too large, or a file does not run. Says which.
    """
    try:
        chain = Chain(folder)
    except FileError as error:
        raise ExportError(
            f"onnxruntime cannot run a stage: {error}\nNothing was written. To write the stages for another "
            "runtime, skip the comparison: option check=false."
        ) from error
    values = {value for piece in pieces for value in piece.writes}
    origins = {translation.origins[value]: str(value.name) for value in values & translation.origins.keys()}
    return max(_differ(chain, case, translation, origins) for case in agreement.cases(program))


def _differ(
    chain: Chain, case: agreement.Case, translation: Translation, origins: Mapping[str, str]
) -> float:
    made = references(translation.lowered, case.leaves, origins)
    known = dict(case.feeds) | {origins[node]: agreement.array(value) for node, value in made.items()}
    worst = 0.0
    for at, stage in enumerate(chain.manifest.stages):
        found = _run(f"stage {stage.index}", case, partial(chain.run_stage, at, known))
        worst = max(worst, _largest(f"stage {stage.index}", known, found, case.said))
        known |= {name: value for name, value in found.items() if name not in known}  # returned weights
    names = [output.value.name for output in chain.manifest.outputs]
    expected = dict(zip(names, map(agreement.array, case.expected), strict=True))
    whole = _run("the chain of stages", case, partial(chain.run, case.feeds))
    return max(worst, _largest("the chain of stages", expected, whole, case.said))


def _run(what: str, case: agreement.Case, run: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    try:
        return run()
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise ExportError(
            f"onnxruntime cannot run {what} on {case.said}: {error}\n"
            "Nothing was written. To write it for another runtime, skip the comparison: option check=false."
        ) from error


def _largest(what: str, expected: Mapping[str, Array], found: Mapping[str, Array], said: str) -> float:
    pairs = [(name, expected[name], each) for name, each in found.items() if name in expected]
    try:
        return max(
            (
                agreement.difference(name, torch.as_tensor(want), torch.as_tensor(got), said)
                for name, want, got in pairs
            ),
            default=0.0,
        )
    except ExportError as error:
        raise ExportError(f"{what}: {error}") from None
