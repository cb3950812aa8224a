"""What a folder of training graphs holds. Plain JSON, read without PyTorch.

::

    {
      "format": "dni_fx.onnx-training", "version": 3, "opset": 20,
      "optimizer": "adam", "slots": ["exp_avg", "exp_avg_sq"], "rate": 0.001, "labels_as_context": false,
      "inputs": [{"name": "x", "value": "v:x", "dtype": "float32", "shape": ["batch", 784]}],
      "targets": [{"name": "target", "value": "target", "dtype": "int64", "shape": ["batch"]}],
      "outputs": ["v:out"], "predictions": ["v:e.out"],
      "stages": [{"stage": 0, "state": "stage_0.safetensors",
                  "forward": {"file": "stage_0.forward.onnx", "inputs": [...], "outputs": [...]},
                  "backward": {...}, "step": {...}, "evaluate": {...}}],
      "boundaries": [{"name": "layers_0", "values": ["v:layers_0"], "producer": 0, "consumers": [1],
                      "warmup": 0, "guess": null, "learn": {...}}],
      "loss": {...}, "shared": {"graph": {...}, "names": ["embed.weight"]},
      "orders": {"decoupled": [{"graph": "stage_0.step.onnx", "reads": {}, "zeros": {}, "keeps": {},
                                "drops": ["v:x"]}],
                 "exact": [...], "evaluate": [...]}
    }

`predictions` are what the outputs are called in eval mode, whose graphs have values of their own. What a name
says is in `dni_fx.exporters.training.functions`. A graph that is not there is null: `step` of a stage
that waits for the loss, `guess` of a boundary whose stage does not, and all of a boundary that sends zeros.

`orders` say which graphs a step runs, and a prediction, one after another. A graph takes what graphs before
it have written, a batch and its numbers, and what the files of stages keep, all by name; what it returns as
`new:` is kept there, buffers not before the end, and gradients of one name are added up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dni_fx.device.errors import DeviceError
from dni_fx.device.plain_files import misplaced

NAME = "training.json"
FORMAT = "dni_fx.onnx-training"
VERSION = 3

ORDERS = ("decoupled", "exact", "evaluate")
"""What there are orders for: two kinds of step, and a prediction."""


@dataclass(frozen=True)
class Graph:
    """One ONNX file, and the names of what it takes and returns."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """An array that callers give, what they call it, and what graphs do.

    A size is a number, or the name of one that varies.
    """

    name: str
    value: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Stage:
    """One stage: its graphs, and the file of its weights and all else that it keeps."""

    stage: int
    state: str
    forward: Graph
    backward: Graph
    step: Graph | None
    evaluate: Graph


@dataclass(frozen=True)
class Boundary:
    """The values that cross one cut, and the graphs of what guesses their gradients.

    True gradients go up until `warmup` of them were heard of; one that does not learn hears of one a step.
    """

    name: str
    values: tuple[str, ...]
    producer: int
    consumers: tuple[int, ...]
    warmup: int
    guess: Graph | None
    learn: Graph | None


@dataclass(frozen=True)
class Shared:
    """The parameters that several stages read, and the graph that moves them."""

    graph: Graph
    names: tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """To run a graph.

    `reads` tell what an input is called among what graphs have written, if not the same; `zeros` name
    gradients that nobody tells, and the values that have their shape; `keeps` tell under which names later
    graphs find buffers that it returns, if other stages read them; `drops` are what nobody reads later.
    """

    graph: Graph
    reads: Mapping[str, str]
    zeros: Mapping[str, str]
    keeps: Mapping[str, str]
    drops: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """All of a folder."""

    opset: int
    optimizer: str
    slots: tuple[str, ...]
    rate: float
    labels_as_context: bool
    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    predictions: tuple[str, ...]
    stages: tuple[Stage, ...]
    boundaries: tuple[Boundary, ...]
    loss: Graph
    shared: Shared | None
    orders: Mapping[str, tuple[Order, ...]]

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All graphs that there are."""
        found = [self.loss, None if self.shared is None else self.shared.graph]
        for stage in self.stages:
            found += [stage.forward, stage.backward, stage.step, stage.evaluate]
        for boundary in self.boundaries:
            found += [boundary.guess, boundary.learn]
        return tuple(graph for graph in found if graph is not None)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files of the folder, its own first."""
        graphs = (graph.file for graph in self.graphs)
        return (NAME, *graphs, *(stage.state for stage in self.stages))

    def to_json(self) -> str:
        """The text of the file."""
        told = asdict(self)
        for orders in told["orders"].values():
            for order in orders:
                order["graph"] = order["graph"]["file"]
        return json.dumps({"format": FORMAT, "version": VERSION, **told}, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """What a folder holds; every file that it names lies in it.

    Raises:
        DeviceError: it is missing, damaged, newer than this version, or names files outside of the folder.
    """
    path = folder / NAME
    try:
        read = json.loads(path.read_text("utf-8"))
        if read["format"] != FORMAT:
            raise ValueError(f"its format is {read['format']!r:.40}, not {FORMAT!r}")
        if int(read["version"]) > VERSION:
            raise DeviceError(f"cannot read {path}: a newer dni_fx has written it. Install that one.")
        if int(read["version"]) < VERSION:
            raise DeviceError(f"cannot read {path}: an older dni_fx has written it. Write it again.")
        manifest = _manifest(read)
    except OSError as error:
        raise DeviceError(
            f"cannot read {path}: {error.strerror or error}. A folder to train from is written by "
            "dni-fx export --form training."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DeviceError(f"cannot read {path}: it is not what dni_fx writes there ({error!r}).") from None
    if problems := [*misplaced(folder, manifest.files)]:
        raise DeviceError(f"refused to read {path}: {'; '.join(problems)}.")
    return manifest


def _manifest(read: Mapping[str, Any]) -> Manifest:
    shared = read["shared"]
    manifest = Manifest(
        opset=int(read["opset"]),
        optimizer=str(read["optimizer"]),
        slots=tuple(map(str, read["slots"])),
        rate=float(read["rate"]),
        labels_as_context=bool(read["labels_as_context"]),
        inputs=tuple(map(_tensor, read["inputs"])),
        targets=tuple(map(_tensor, read["targets"])),
        outputs=tuple(map(str, read["outputs"])),
        predictions=tuple(map(str, read["predictions"])),
        stages=tuple(map(_stage, read["stages"])),
        boundaries=tuple(map(_boundary, read["boundaries"])),
        loss=_graph(read["loss"]),
        shared=None if shared is None else Shared(_graph(shared["graph"]), tuple(map(str, shared["names"]))),
        orders={},
    )
    graphs = {graph.file: graph for graph in manifest.graphs}
    orders = {mode: tuple(_order(each, graphs) for each in read["orders"][mode]) for mode in ORDERS}
    return replace(manifest, orders=orders)


def _order(read: Mapping[str, Any], graphs: Mapping[str, Graph]) -> Order:
    named = [{str(k): str(v) for k, v in read[kind].items()} for kind in ("reads", "zeros", "keeps")]
    return Order(graphs[read["graph"]], *named, drops=tuple(map(str, read["drops"])))


def _tensor(read: Mapping[str, Any]) -> Tensor:
    shape = tuple(size if isinstance(size, int) else str(size) for size in read["shape"])
    return Tensor(str(read["name"]), str(read["value"]), str(read["dtype"]), shape)


def _stage(read: Mapping[str, Any]) -> Stage:
    return Stage(
        int(read["stage"]),
        str(read["state"]),
        _graph(read["forward"]),
        _graph(read["backward"]),
        _graph_if_any(read["step"]),
        _graph(read["evaluate"]),
    )


def _boundary(read: Mapping[str, Any]) -> Boundary:
    return Boundary(
        str(read["name"]),
        tuple(map(str, read["values"])),
        int(read["producer"]),
        tuple(map(int, read["consumers"])),
        int(read["warmup"]),
        _graph_if_any(read["guess"]),
        _graph_if_any(read["learn"]),
    )


def _graph(read: Mapping[str, Any]) -> Graph:
    return Graph(str(read["file"]), tuple(map(str, read["inputs"])), tuple(map(str, read["outputs"])))


def _graph_if_any(read: Mapping[str, Any] | None) -> Graph | None:
    return None if read is None else _graph(read)
