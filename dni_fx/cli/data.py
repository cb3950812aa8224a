"""Data that the command line names: `.npz` files, or Python functions that return arrays or batches."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dni_fx.cli.code import called, look_up
from dni_fx.errors import FileError

Batches = Iterable[tuple[Any, Any]]


@dataclass(frozen=True)
class Data:
    """Pairs of inputs and targets to train on and, if there are any, to test on."""

    train: Batches
    test: Batches | None = None


class Arrays:
    """Batches of `size` samples from two tensors, in a new order at every pass if there is a seed.

    It says where it is and goes back there, so that a run can be resumed in the middle of a pass.
    """

    def __init__(self, x: Tensor, y: Tensor, size: int, seed: int | None = None) -> None:
        self.x = x
        self.y = y
        self.size = size
        self._draw = None if seed is None else torch.Generator().manual_seed(seed)
        self._start = self._state()
        self._at = self._skip = 0

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._start, at = self._state(), self._skip
        self._skip = 0
        count = len(self.x)
        order = torch.arange(count) if self._draw is None else torch.randperm(count, generator=self._draw)
        parts = order.split(self.size)
        for part in parts[at:]:
            self._at = at = at + 1
            yield self.x[part], self.y[part]
        self._at = 0

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the pass were read, and what its order was drawn from."""
        return {"at": self._at, "draw": self._start if self._at else self._state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned: the next pass is the rest of that one."""
        self._skip = state_dict["at"]
        if self._draw is not None:
            self._draw.set_state(state_dict["draw"])

    def _state(self) -> Tensor | None:
        return None if self._draw is None else self._draw.get_state()


def read_data(text: str, size: int, seed: int, dtype: torch.dtype) -> Data:
    """The data in a `.npz` file, or what a function `package.module:function` returns.

    Arrays become batches of `size` samples; floats get the model's `dtype`.

    Raises:
        FileError: there is none, it cannot be read, or it has not the parts that training needs.
    """
    if text.endswith(".npz"):
        return _of_arrays(text, _read_npz(Path(text)), size, seed, dtype)
    if ":" not in text:
        raise FileError(
            f"cannot tell what data {text!r} is. Name a .npz file with the arrays x_train and y_train (and "
            "x_test, y_test), or package.module:function."
        )
    found = called(look_up(text, "--data"), text, "--data")
    if isinstance(found, Mapping):
        return _of_arrays(text, cast("Mapping[str, Any]", found), size, seed, dtype)
    if isinstance(found, tuple) and len(found) in {2, 4} and all(map(_is_array, found)):
        names = ("x_train", "y_train", "x_test", "y_test")
        return _of_arrays(text, dict(zip(names, found, strict=False)), size, seed, dtype)
    if isinstance(found, Iterable):
        # An iterator could be read only once, and its first batch may be wanted as an example before that.
        return Data(list(found) if isinstance(found, Iterator) else cast("Batches", found))
    raise FileError(
        f"--data {text} returned a {type(found).__name__}. It has to return a dictionary of arrays, a tuple "
        "(x, y) or (x_train, y_train, x_test, y_test), or batches, each a pair of inputs and targets."
    )


def first_inputs(data: Data) -> Any:
    """The inputs of the first batch: an example of what the model is called with.

    Raises:
        FileError: there is no batch, or it is not a pair.
    """
    for batch in data.train:
        try:
            inputs, _ = batch
        except (TypeError, ValueError):
            kind = type(batch).__name__
            raise FileError(f"a batch is a pair of inputs and targets, and this one is a {kind}.") from None
        return inputs
    raise FileError("the data have no batch to train on.")


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        # numpy leaves a file that it opened itself open when it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise FileError(f"cannot read {path}: it is not a .npz file of plain arrays ({why}).") from None


def _of_arrays(where: str, arrays: Mapping[str, Any], size: int, seed: int, dtype: torch.dtype) -> Data:
    names = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
    if not arrays.keys() >= set(names) or ("x_test" in arrays) != ("y_test" in arrays):
        raise FileError(
            f"cannot train on {where}: it has {', '.join(arrays) or 'nothing'}. Needed are x_train and "
            "y_train, or x and y; for a test, x_test and y_test."
        )
    train = Arrays(*_pair(where, arrays, names, dtype), size, seed)
    if "x_test" not in arrays:
        return Data(train)
    return Data(train, Arrays(*_pair(where, arrays, ("x_test", "y_test"), dtype), size))


def _pair(
    where: str, arrays: Mapping[str, Any], names: tuple[str, str], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x, y = (_tensor(where, name, arrays[name], dtype) for name in names)
    if len(x) != len(y) or not len(x):
        raise FileError(
            f"cannot use {where}: {names[0]} has {len(x)} samples and {names[1]} has {len(y)}; they need "
            "as many, and at least one."
        )
    return x, y


def _tensor(where: str, name: str, array: Any, dtype: torch.dtype) -> Tensor:
    try:
        tensor = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FileError(f"cannot use {where}: {name} is no array of numbers ({error}).") from None
    if not tensor.dim():
        raise FileError(f"cannot use {where}: {name} is a single number, and not one for each sample.")
    if name.startswith("y") and not tensor.is_floating_point():
        return tensor.long()
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | Tensor)
