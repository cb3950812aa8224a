"""Writes a folder of graphs by which a device without PyTorch trains a cut model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dni_fx.calls import call_of
from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.device.errors import DeviceError
from dni_fx.device.manifest import NAME, read_manifest
from dni_fx.errors import ExportError, FileError
from dni_fx.exporters.base import Written
from dni_fx.exporters.folders import check_folder, replacing_folder
from dni_fx.exporters.training.agreement import compared
from dni_fx.exporters.training.assembly import Assembly
from dni_fx.exporters.training.contents import Contents
from dni_fx.exporters.training.known import Entry
from dni_fx.exporters.training.lesson import Lesson
from dni_fx.exporters.training.refusals import refuse_untrainable
from dni_fx.exporters.training.tracing import NoSeedError, trace
from dni_fx.exporters.training.writing import onnx_model
from dni_fx.exporters.translation import count_nodes, quiet, require_packages
from dni_fx.modes import eval_mode, training_mode
from dni_fx.program import signature_of
from dni_fx.tensor_files import check_tensor_files
from passes import Named

if TYPE_CHECKING:
    import onnx_ir

_KEPT = ("p:", "b:", "s:")
_MANY = 6


@dataclass(frozen=True)
class OnnxTraining(Named):
    """A folder with graphs of ordinary ONNX operators for each stage: forward, backward, and its whole step.

    `dni_fx.device` trains by them; it has no guard over synthesizers. Each graph is compared with PyTorch
    on the example; `check=false` skips that. `opset` is 0 for the one that torch writes unasked. Sizes
    that follow the batch may be others than the example's.
    """

    name = "onnx-training"

    opset: int = 0
    check: bool = True

    def check_place(self, path: Path) -> None:
        """Do nothing if there can be written to this path, so that no one waits for work that is then lost.

        Raises:
            FileError: it cannot, or safetensors is not installed.
        """
        check_tensor_files(path)
        check_folder(path, _files_of)

    def write(self, cut: Decoupled, path: Path, lesson: Lesson) -> Written:
        """Write the training step of a cut model. `path` holds all that is new, or what it held before.

        Raises:
            ExportError: the step cannot be written as ONNX, or a file disagrees with PyTorch.
            FileError: `path` cannot be written.
        """
        require_packages(self.check, self.name)
        self.check_place(path)
        with quiet(), torch.random.fork_rng(devices=[]):
            assembly, training, evaluation = assembled(cut, lesson)
            contents = Contents(assembly)
            try:
                with replacing_folder(path) as folder:
                    # A stage runs the modules themselves, in the mode that they have while it is traced.
                    with training_mode(cut):
                        models = [self._written(entry, folder, contents) for entry in training]
                    with eval_mode(cut):
                        models += [self._written(entry, folder, contents) for entry in evaluation]
                    manifest = contents.save(folder)
            except OSError as error:
                raise FileError(f"cannot write {path}: {error}. What was there is as it was.") from error
        return Written(
            path=path,
            files=tuple(path / name for name in manifest.files),
            nodes=sum(count_nodes(model) for model in models),
            interfaces=tuple(boundary.name for boundary in manifest.boundaries),
            opset=manifest.opset,
            dynamic=not contents.is_fixed,
            difference=contents.difference if self.check else None,
        )

    def _written(self, entry: Entry, folder: Path, contents: Contents) -> onnx_ir.Model:
        import onnx_ir

        what = f"the graph {entry.name}"
        try:
            traced = trace(entry.function, entry.real, entry.fake)
        except ExportError:
            raise
        except NoSeedError as error:
            raise ExportError(f"cannot write {what}: {error}.") from None
        except Exception as error:  # whatever an operator may raise that dislikes what has no data
            given = f"{what}, which is given {_shapes(entry)}"
            raise ExportError(f"cannot trace {given}: {type(error).__name__}: {error}") from error
        model = onnx_model(traced, self.opset, what)
        path = folder / f"{entry.name}.onnx"
        onnx_ir.save(model, path)
        difference = compared(path, entry, traced, contents.slack) if self.check else 0.0
        contents.add(entry, traced, model.opset_imports[""], difference)
        return model


def assembled(cut: Decoupled, lesson: Lesson) -> tuple[Assembly, list[Entry], list[Entry]]:
    """A step of a model taken apart, its graphs, and those of eval mode.

    Raises:
        ExportError: it cannot be trained by graphs alone.
    """
    cutting = cutting_of(cut)
    call = call_of(signature_of(cut), lesson.args, lesson.kwargs)
    with training_mode(cut):
        graph = cutting.settled(cut, call)
        refuse_untrainable(graph, dnis(cut))
        lesson.check()
        assembly = Assembly(graph, dnis(cut), call, lesson)
        entries = [*assembly.entries()]
    with eval_mode(cut):
        return assembly, entries, [*assembly.evaluation(cutting.settled(cut, call))]


def _shapes(entry: Entry) -> str:
    """What a graph is given beside weights and what is kept, in short."""
    given = [
        f"{name} {tuple(each.shape)}"
        for name, each in entry.real.items()
        if name[:2] not in _KEPT and each.dim()
    ]
    return ", ".join([*given[:_MANY], *["and more"] * (len(given) > _MANY)])


def _files_of(folder: Path) -> tuple[str, ...]:
    if not (folder / NAME).exists():
        return ()
    try:
        return read_manifest(folder).files
    except DeviceError as error:
        raise FileError(str(error)) from None
