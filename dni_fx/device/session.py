"""A model that is trained on a device, batch after batch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import numpy as np

from dni_fx.device.batches import NOTHING, Batch
from dni_fx.device.errors import DeviceError
from dni_fx.device.graphs import Graphs
from dni_fx.device.manifest import Boundary, Manifest, read_manifest
from dni_fx.device.orders import follow
from dni_fx.device.store import Array, Store, write_tensors

MODES = ("decoupled", "exact")
_WEIGHTS = ("p:", "b:")
_HALFWAY = (
    "The step ended there: stages that had taken theirs stay moved, the others are as they were. `load` goes "
    "back to weights that were saved."
)


class Session:
    """The model of a folder that `onnx-training` has written, and its training.

    In the mode `decoupled` each stage takes its step as soon as it has run; in `exact` true gradients go
    up from stage to stage, and a step is one of plain backpropagation. In both, one stage is at work at a
    time. With `memory` no more bytes of weights and optimizer state than that are kept in memory, but for
    those of one stage, and no graph but the one that runs; what a stage has changed is then written to
    the folder as training goes on, and until `flush` the folder has stages of different steps. Without it
    the folder is as it was until `flush`.

    `mode` and `rate`, the learning rate, may be changed between steps.
    """

    def __init__(self, folder: Path, mode: str, memory: int | None, rate: float | None, seed: int) -> None:
        if mode not in MODES:
            raise DeviceError(f"mode is {' or '.join(MODES)}, not {mode!r}.")
        self.folder = folder
        self.mode = mode
        self.manifest: Manifest = read_manifest(folder)
        self.rate = self.manifest.rate if rate is None else rate
        self.seed = seed
        files = {stage.stage: stage.state for stage in self.manifest.stages}
        self.store = Store(folder, files, memory)
        self._graphs = Graphs(folder, self.store, keeps=memory is None)

    @property
    def steps(self) -> int:
        """How many steps the model has been trained for."""
        return int(self.store["steps"])

    def step(self, inputs: Any, targets: Any) -> float:
        """Train on one batch; returns its loss.

        `inputs` are arrays by name, or a sequence of arrays, or the array itself for a model with one input;
        `targets` likewise. What they are called is in `manifest`.

        Raises:
            DeviceError: a batch is not what the model takes, or a graph does not run on it, as the loss does
                not on a class that there is not. Then stages that had run stay moved.
        """
        batch = Batch.of(self.manifest, inputs, targets)
        number = self.steps + 1
        numbers: dict[str, Array] = {
            "lr": np.asarray(self.rate, np.float64),
            "step": np.asarray(number, np.float64),
            "batch": np.asarray(batch.size, np.int64),
            "seed": self._seed(number),
        }
        mode = "exact" if self._warms_up() else self.mode
        given = {**numbers, **batch.inputs, **batch.targets, **batch.context}
        try:
            loss = float(follow(self.manifest.orders[mode], self._graphs, given)["loss"])
        except DeviceError as error:
            raise DeviceError(f"{error} {_HALFWAY}") from error
        self.store["steps"] = np.asarray(number, np.int64)
        return loss

    def predict(self, inputs: Any) -> list[Array]:
        """The outputs of the model in eval mode, in its order.

        Raises:
            DeviceError: the inputs are not what the model takes.
        """
        return self._outputs(Batch.of(self.manifest, inputs, NOTHING))

    def _outputs(self, batch: Batch) -> list[Array]:
        given = {**batch.inputs, "seed": self._seed(0)}
        values = follow(self.manifest.orders["evaluate"], self._graphs, given)
        return [values[name] for name in self.manifest.predictions]

    def evaluate(self, batches: Iterable[tuple[Any, Any]]) -> dict[str, float]:
        """The mean loss over batches in eval mode and, where targets are classes, the part that is right."""
        total, right, seen, loss = 0, 0, 0, 0.0
        if len(self.manifest.outputs) != len(self.manifest.predictions):
            raise DeviceError(
                "the loss is of what the model returns in train mode, and in eval mode it returns something "
                "else. `predict` tells what."
            )
        for pair in batches:
            if not isinstance(cast("object", pair), tuple | list) or len(pair) != 2:
                raise DeviceError("batches are pairs of inputs and targets: evaluate([(x, y)]).")
            inputs, targets = pair
            batch = Batch.of(self.manifest, inputs, targets)
            found = self._outputs(batch)
            given = dict(zip(self.manifest.outputs, found, strict=True))
            loss += float(self._graphs.run(self.manifest.loss, given | batch.targets)["loss"]) * batch.size
            total += batch.size
            hits = _hits(found, [*batch.targets.values()])
            right, seen = right + hits[0], seen + hits[1]
        if not total:
            raise DeviceError("there is no batch to evaluate on.")
        return {"loss": loss / total} | ({"accuracy": right / seen} if seen else {})

    def weights(self) -> dict[str, Array]:
        """Every parameter and buffer, by the name that the PyTorch model has for it."""
        names = [name for name in self.store.homes if name.startswith(_WEIGHTS)]
        return {name[2:]: self.store[name] for name in names}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a `.safetensors` file, under the names that they have in PyTorch.

        `model.load_state_dict(safetensors.torch.load_file(path))` takes them there; a cut model has more
        and takes them with `strict=False`.

        Raises:
            DeviceError: it cannot be written.
        """
        write_tensors(Path(path), self.weights())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a `.safetensors` file by their names; what the optimizer keeps stays.

        Raises:
            DeviceError: it cannot be read, or lacks a weight, or one has another shape.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DeviceError(f"cannot read {path}: {error}") from None
        own = self.weights()
        if missing := [name for name in own if name not in found]:
            raise DeviceError(f"{path} has no {', '.join(missing[:5])}: is it of another model?")
        apart = [
            name
            for name in own
            if (found[name].shape, found[name].dtype) != (own[name].shape, own[name].dtype)
        ]
        if apart:
            raise DeviceError(
                f"{path} has {', '.join(apart[:5])} of another shape or type: is it of another model?"
            )
        for name in own:
            for head in _WEIGHTS:
                if f"{head}{name}" in self.store:
                    self.store[f"{head}{name}"] = found[name]

    def flush(self) -> None:
        """Write weights, optimizer state and synthesizers to the folder: what opens it goes on from there."""
        self.store.flush()

    def _seed(self, step: int) -> Array:
        return np.asarray((self.seed * 1_000_003 + step) % (2**31 - 1), np.int64)

    def _warms_up(self) -> bool:
        """Whether true gradients still go up, since synthesizers have heard of too few of them."""
        return any(self._heard(each) < each.warmup for each in self.manifest.boundaries if each.warmup)

    def _heard(self, boundary: Boundary) -> int:
        return self.steps if boundary.learn is None else int(self.store[f"s:{boundary.name}:scale.seen"])


def _hits(outputs: Sequence[Array], targets: Sequence[Array]) -> tuple[int, int]:
    """How many class numbers have the largest score, and of how many: none if targets are no classes."""
    if len(targets) != 1 or not outputs:
        return 0, 0
    (target,), scores = targets, outputs[0]
    if not np.issubdtype(target.dtype, np.integer) or scores.ndim != target.ndim + 1:
        return 0, 0
    axis = 1 if scores.ndim > 1 else -1
    return int((scores.argmax(axis) == target).sum()), target.size


def _check_number(option: str, value: object, kind: type, is_said: str) -> None:
    fits = isinstance(value, kind) and 0 <= float(cast("Any", value)) < math.inf
    if value is not None and not fits:
        raise DeviceError(f"{option} is {is_said}, not {value!r}.")


def open_session(
    folder: str | os.PathLike[str],
    *,
    mode: str = "decoupled",
    memory: int | None = None,
    rate: float | None = None,
    seed: int = 0,
) -> Session:
    """The session of a folder.

    `memory` are the bytes of weights and optimizer state that are kept in memory, and all if it is not said;
    `rate` is the learning rate, if it is not to be that of the folder; `seed` tells dropout and the like.

    Raises:
        DeviceError: the folder is not whole, or was not written by `onnx-training`; or an option has a value
            that it cannot have.
    """
    _check_number("memory", memory, Integral, "a whole number of bytes")
    _check_number("rate", rate, Real, "a number, 0 or more")
    if not isinstance(cast("object", seed), Integral):
        raise DeviceError(f"seed is a whole number, not {seed!r}.")
    return Session(Path(folder), mode, memory, rate, seed)
