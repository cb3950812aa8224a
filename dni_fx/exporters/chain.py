"""Runs a folder of stages with onnxruntime, one after another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_fx.errors import FileError
from dni_fx.exporters.manifest import Manifest, StageFile, read_manifest

Array = NDArray[Any]


class Chain:
    """The stages of a folder that `onnx-stages` wrote, which together compute what the whole model does.

    ::

        chain = Chain("model-stages")
        outputs = chain.run({"x": x})  # {"output": ...}

    Nothing in the folder is code. Sessions are opened when the chain is made, and run on the CPU. A value is
    dropped after its last reader.

    Raises:
        FileError: the folder is not whole, names files outside of it, or a file is not what it says there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self._sessions = [open_session(self.folder / stage.file, stage) for stage in self.manifest.stages]
        self._last = _last_readers(self.manifest)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name, computed from its inputs by name.

        Raises:
            ValueError: an input is missing, or is none of the model's.
        """
        wanted = [value.name for value in self.manifest.inputs]
        if missing := [name for name in wanted if name not in inputs]:
            raise ValueError(f"the model takes {', '.join(wanted)}; missing: {', '.join(missing)}")
        if odd := [name for name in inputs if name not in wanted]:
            raise ValueError(f"the model takes {', '.join(wanted)}, and not {', '.join(odd)}")
        values = dict(inputs)
        for at, stage in enumerate(self.manifest.stages):
            values |= self.run_stage(at, values)
            for read in stage.reads:
                if self._last[read.value.name] == at:
                    del values[read.value.name]
        return {output.value.name: values[output.value.name] for output in self.manifest.outputs}

    def run_stage(self, at: int, values: Mapping[str, Array]) -> dict[str, Array]:
        """What the stage at this place of the manifest writes, by name, computed from values by name."""
        stage = self.manifest.stages[at]
        names = [write.value.name for write in stage.writes]
        feeds = {read.value.name: values[read.value.name] for read in stage.reads}
        return dict(zip(names, map(np.asarray, self._sessions[at].run(names, feeds)), strict=True))


def open_session(path: Path, stage: StageFile) -> Any:
    """A session of onnxruntime for the file of a stage, which reads and writes what the manifest says.

    Raises:
        FileError: it is damaged, or reads or writes something else.
    """
    import onnx.checker
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    try:
        onnx.checker.check_model(str(path))  # weights that lie in another file lie beside this one
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of both have no common base but this
        raise FileError(f"cannot run {path}: {error}") from error
    found = [sorted(each.name for each in end) for end in (session.get_inputs(), session.get_outputs())]
    told = [sorted(each.value.name for each in end) for end in (stage.reads, stage.writes)]
    if found != told:
        raise FileError(
            f"cannot run {path}: it takes {', '.join(found[0])} and returns {', '.join(found[1])}, and the "
            f"manifest says {', '.join(told[0])} and {', '.join(told[1])}."
        )
    return session


def _last_readers(manifest: Manifest) -> dict[str, int]:
    """The place of the stage that reads each value last; none for what the whole returns."""
    last = {read.value.name: at for at, stage in enumerate(manifest.stages) for read in stage.reads}
    return last | {output.value.name: len(manifest.stages) for output in manifest.outputs}
