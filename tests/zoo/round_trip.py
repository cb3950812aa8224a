"""A model's way through files: cut, saved, loaded, verified, exported, and run by onnxruntime."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor, nn

import dni_fx
from dni_fx.decoupled import Decoupled
from dni_fx.exporters.chain import Chain
from dni_fx.fields import with_fields
from tests.zoo.architecture import LIBRARY
from tests.zoo.checks import Subject, cut_of, said

TOLERANCE = 1e-4
"""How far an output may be from PyTorch's, relative to its largest element."""

Arrays = dict[str, NDArray[Any]]


@dataclass
class Trip:
    """How far one subject came. `apart` is the largest relative difference of an output that was found.

    `noise` counts what was farther apart, and in PyTorch as far from what 64 bits say.
    """

    name: str
    family: str
    dtype: str
    stages: int = 0
    boundaries: int = 0
    interfaces: int = 0
    nodes: int = 0
    apart: float | None = None
    noise: int = 0
    checks: dict[str, bool] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Luggage:
    """What one step leaves for the next."""

    subject: Subject
    folder: Path
    plan: str
    stages: int
    cut: Decoupled

    def model(self) -> nn.Module:
        """A new one in 32 bits, the same each time."""
        return self.subject.model().float()

    def call(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs for so many samples, floats in 32 bits."""
        args, kwargs = self.subject.call(batch)
        return pytree.tree_map_only(
            Tensor, lambda each: each.float() if each.is_floating_point() else each, (args, kwargs)
        )


def decouple(luggage: Luggage, trip: Trip) -> None:
    """The model is cut, with synthesizers of its own."""
    args, kwargs = luggage.call(luggage.subject.batches[0])
    program = dni_fx.capture(luggage.model(), kwargs or args)
    luggage.cut = cut_of(program, luggage.plan, luggage.stages, "auto")
    trip.stages = len(dni_fx.stages(luggage.cut))
    trip.boundaries = sum(len(dni.spec.values) for dni in dni_fx.boundaries(luggage.cut).values())


def save(luggage: Luggage, trip: Trip) -> None:
    """It is written to one file."""
    dni_fx.save(luggage.cut, luggage.folder / "cut.pt2")


def load(luggage: Luggage, trip: Trip) -> None:
    """It is read back, operators of the architectures' library too; next steps are of what was read."""
    luggage.cut = dni_fx.load(luggage.folder / "cut.pt2", trusted=(LIBRARY,))


def verify(luggage: Luggage, trip: Trip) -> None:
    """It is equal to its original where it must be, and cut where it must be."""
    report = dni_fx.verify(luggage.cut)
    assert report, str(report)


def export(luggage: Luggage, trip: Trip) -> None:
    """Its ONNX file has a node of the domain dni_fx for each value that crosses with a gradient."""
    path = luggage.folder / "model.onnx"
    trip.nodes = dni_fx.export(luggage.cut, path, exporter="onnx:check=false").nodes
    nodes = onnx.load(path).graph.node
    trip.interfaces = sum(node.domain == "dni_fx" for node in nodes)
    assert trip.interfaces == trip.boundaries, f"{trip.interfaces} nodes for {trip.boundaries} boundaries"


def run(luggage: Luggage, trip: Trip) -> None:
    """Onnxruntime computes from the file what the model does, also at another batch size if it may vary."""
    session = onnxruntime.InferenceSession(
        str(luggage.folder / "model.onnx"), _options(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    shapes = {each.name: tuple(each.shape) for each in session.get_inputs()}
    _compare(luggage, trip, shapes, lambda feeds: dict(zip(names, session.run(None, feeds), strict=True)))


def chain(luggage: Luggage, trip: Trip) -> None:
    """So does onnxruntime with a file for each stage, one after another."""
    path = luggage.folder / "stages"
    dni_fx.export(luggage.cut, path, exporter="onnx-stages:check=false")
    chained = Chain(path)
    shapes = {value.name: value.shape for value in chained.manifest.inputs}
    _compare(luggage, trip, shapes, chained.run)


Steps = Mapping[str, Callable[[Luggage, Trip], None]]
"""What a model goes through, in order."""

STEPS: Steps = {
    "decouple": decouple,
    "save": save,
    "load": load,
    "verify": verify,
    "export": export,
    "run": run,
    "chain": chain,
}


def uncut(luggage: Luggage) -> str:
    """What becomes of the model itself when torch alone exports it, for the example's sizes."""
    args, kwargs = luggage.call(luggage.subject.batches[0])
    path = luggage.folder / "uncut.onnx"
    try:
        program = torch.export.export(luggage.model().eval(), args, kwargs)
        torch.onnx.export(program, dynamo=True, verbose=False, external_data=False, f=str(path))
        onnxruntime.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        return f"{type(root).__name__}: {str(root)[:200]}"
    return "ok"


def first_dtype(subject: Subject) -> torch.dtype:
    """The type of the one subject of this model that travels; all travel in 32 bits."""
    return torch.float64 if subject.family == "hand" else torch.float32


def travel(subject: Subject, plan: str = "", stages: int = 3, steps: Steps = STEPS) -> Trip:
    """Take a model through the steps, to the first that fails; what fails is in the row."""
    trip = Trip(subject.name, subject.family, "float32")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, _no_random_state():
        luggage = Luggage(subject, Path(folder), plan, stages, Decoupled.__new__(Decoupled))
        for name, step in steps.items():
            try:
                step(luggage, trip)
            except Exception as error:  # any model's code runs here, and the next row is wanted
                trip.failed[name] = said(error)
                if name in ("export", "run"):
                    trip.failed[name] += f" [uncut: {uncut(luggage)}]"
                trip.checks[name] = False
                break
            trip.checks[name] = True
    trip.seconds = round(time.perf_counter() - start, 2)
    return trip


def _compare(
    luggage: Luggage, trip: Trip, shapes: Mapping[str, tuple[Any, ...]], run: Callable[[Arrays], Arrays]
) -> None:
    for batch in luggage.subject.batches:
        args, kwargs = luggage.call(batch)
        feeds = feeds_of(list(shapes), args, kwargs)
        if batch != luggage.subject.batches[0] and not fit(shapes, feeds):
            continue  # the file is for the other batch size alone
        with torch.no_grad():
            expected = luggage.model().eval()(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        leaves = pytree.tree_leaves(with_fields(expected))
        found = run(feeds)
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        # A size that depends on the input is an output, one that does not is none.
        wanted = tensors if len(found) == len(tensors) else [each for each in leaves if each is not None]
        assert len(found) == len(wanted), f"{len(found)} outputs, and the model returns {len(wanted)}"
        for (name, got), want in zip(found.items(), wanted, strict=True):
            apart = relative(torch.as_tensor(want).detach().numpy(), got)
            trip.apart = max(trip.apart or 0.0, apart)
            assert apart <= TOLERANCE, f"{name} is {apart:.1e} apart at batch size {batch}"


def feeds_of(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arrays:
    """The tensors of a call by these names, which are those of its arguments in order."""
    if kwargs:
        return {name: kwargs[name].numpy() for name in names}
    tensors = [each for each in pytree.tree_leaves(args) if isinstance(each, Tensor)]
    return {name: each.detach().numpy() for name, each in zip(names, tensors, strict=True)}


def fit(shapes: Mapping[str, tuple[Any, ...]], feeds: Arrays) -> bool:
    """Whether each size that is fixed is the one that is given."""
    return all(
        not isinstance(dim, int) or dim == size
        for name, shape in shapes.items()
        for dim, size in zip(shape, feeds[name].shape, strict=True)
    )


def relative(want: NDArray[Any], got: NDArray[Any]) -> float:
    """The largest difference relative to the largest finite element; infinite where only one has a number."""
    if (want.shape, want.dtype) != (got.shape, got.dtype):
        return float("inf")
    equal = (want == got) | ((want != want) & (got != got))
    if equal.all():
        return 0.0
    if want.dtype.kind != "f":
        return float("inf")
    largest = np.abs(want[np.isfinite(want)]).max(initial=0.0)
    gap = np.abs(want - got)[~equal].max()
    return float(gap / largest) if np.isfinite(gap) and largest else float("inf")


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.intra_op_num_threads = 1
    return options


@contextlib.contextmanager
def _no_random_state() -> Generator[None]:
    with torch.random.fork_rng(devices=[]):
        yield
