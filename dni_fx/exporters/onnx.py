"""Writes ONNX files in which every boundary is a node of the domain `dni_fx`."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch.export import ExportedProgram
from typing_extensions import override

from dni_fx.errors import FileError
from dni_fx.exporters import agreement
from dni_fx.exporters.base import Exporter, Written
from dni_fx.exporters.translation import (
    PRODUCER,
    count_nodes,
    define_interface,
    is_dynamic,
    quiet,
    require_packages,
    translate,
)
from dni_fx.files import check_place

if TYPE_CHECKING:
    import onnx_ir

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
    suffixes = (".onnx",)
    keep_interfaces: bool = True
    opset: int = 0
    check: bool = True

    @override
    def check_place(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise FileError(f"cannot write {path}: there is no folder {path.parent}. Name one that exists.")
        check_place(path)

    @override
    def write(self, program: ExportedProgram, path: Path) -> Written:
        require_packages(self.check, self.name)
        self.check_place(path)
        with quiet():
            model = translate(program, keep_interfaces=self.keep_interfaces, opset=self.opset).model
            return self._write(model, define_interface(model), program, path)

    def _write(
        self, model: onnx_ir.Model, names: tuple[str, ...], program: ExportedProgram, path: Path
    ) -> Written:
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                files = save(model, Path(folder) / path.name)
                difference = agreement.check(files[0], program) if self.check else None
                _install(files, path.parent, _left_behind(files, path))
        except OSError as error:
            raise FileError(f"cannot write {path}: {error}. What was there is as it was.") from error
        return Written(
            path=path,
            files=tuple(path.parent / file.name for file in files),
            nodes=count_nodes(model),
            interfaces=names,
            opset=model.opset_imports[""],
            dynamic=is_dynamic(model),
            difference=difference,
        )


def save(model: onnx_ir.Model, path: Path) -> tuple[Path, ...]:
    """Write a model, and beside it its weights where they are too many for one file; what was written."""
    import onnx_ir

    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    # The model names its weights' file by a path relative to its own: both keep their names when moved.
    data = f"{path.name}.data" if weights > _WEIGHTS_INSIDE else None
    onnx_ir.save(model, path, format="protobuf", external_data=data)
    return (path, path.parent / data) if data else (path,)


def _left_behind(files: tuple[Path, ...], path: Path) -> tuple[Path, ...]:
    """The file of weights of the model of ours that is at `path` now, if the new one has none of that name.

    A file that only happens to have such a name is not ours to remove.
    """
    import onnx_ir

    data = path.with_name(f"{path.name}.data")
    if data.name in (file.name for file in files) or data.is_symlink() or not data.is_file():
        return ()
    try:
        there = onnx_ir.load(path)
    except Exception:  # who knows what is there, if it is no model
        return ()
    held = (value.const_value for value in there.graph.initializers.values())
    places = {each.location for each in held if isinstance(each, onnx_ir.ExternalTensor)}
    return (data,) if there.producer_name == PRODUCER and places == {data.name} else ()


def _install(files: tuple[Path, ...], folder: Path, old: tuple[Path, ...] = ()) -> None:
    """Move files to a folder, the first of them last, and `old` out; a failure puts back what was there."""
    model, *others = files
    with contextlib.ExitStack() as undo:
        for file in old:
            kept = model.with_name(f"{file.name}.old")
            file.replace(kept)
            undo.callback(kept.replace, file)
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
