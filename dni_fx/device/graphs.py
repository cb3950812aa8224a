"""Runs the graphs of a folder on tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dni_fx.device.errors import DeviceError
from dni_fx.device.manifest import Graph
from dni_fx.device.store import Array, Store

NEW = "new:"
BUFFER = "new:b:"


class Graphs:
    """Sessions of onnxruntime, each opened when its graph first runs.

    With `keeps` they stay open; without, a graph is let go of when another one runs.
    """

    def __init__(self, folder: Path, store: Store, keeps: bool) -> None:
        self.folder = folder
        self.store = store
        self.keeps = keeps
        self._open: dict[str, Any] = {}

    def run(self, graph: Graph, given: Mapping[str, Array]) -> dict[str, Array]:
        """What a graph returns of what is given and of what the store has.

        What it returns as new is put into the store, but for buffers, which the caller puts there in time.

        Raises:
            DeviceError: it cannot be read, or does not run.
        """
        feeds = {name: given[name] if name in given else self.store[name] for name in graph.inputs}
        try:
            found = self._session(graph).run(list(graph.outputs), feeds)
        except DeviceError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise DeviceError(f"cannot run {graph.file}: {error}") from error
        told: dict[str, Array] = {}
        for name, value in zip(graph.outputs, map(np.asarray, found), strict=True):
            if name.startswith(NEW) and not name.startswith(BUFFER):
                self.store[name.removeprefix(NEW)] = value
            else:
                told[name] = value
        return told

    def _session(self, graph: Graph) -> Any:
        if graph.file not in self._open:
            if not self.keeps:
                self._open.clear()
            self._open[graph.file] = open_graph(self.folder / graph.file)
        return self._open[graph.file]


def open_graph(path: Path) -> Any:
    """A session of onnxruntime that holds no memory between runs, and whose threads sleep then.

    There are several for each stage, and one runs at a time.

    Raises:
        DeviceError: the file cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        raise DeviceError(f"cannot read {path}: {error}") from error
