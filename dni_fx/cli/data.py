"""Data that the command line names: `.npz` files, folders of images, or what Python functions return."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from dni_fx.cli.arrays import Arrays, Samples, Streams, streams_of
from dni_fx.cli.code import called, look_up
from dni_fx.cli.images import read_folder
from dni_fx.cli.usage import refuse_idle
from dni_fx.errors import FileError
from passes.words import counted

Batches = Iterable[Any]
_Shape = tuple[int, int, int]
_TARGET = "labels"
BATCH_SIZE = 32
"""Samples in a batch, if nobody has said how many."""


@dataclass(frozen=True)
class Data:
    """Batches, each a pair of inputs and targets: to train on, and to watch and test on if there are any.

    Those that `is_batched` came as batches; of others, samples were put together.
    """

    train: Batches
    validation: Batches | None = None
    test: Batches | None = None
    classes: tuple[str, ...] = ()
    is_batched: bool = False

    @property
    def has_images(self) -> bool:
        """Whether they are read from a folder of images, whose names are the classes."""
        return bool(self.classes)


@dataclass(frozen=True)
class Reader:
    """Reads what a user names, in batches of `size` samples.

    Floats become `dtype`. `image` is the shape of an image as the model takes it, None if nothing tells.
    Where state is `carried`, samples come in streams and keep their order; else a seed decides it.
    `target` is the entry of samples that are dictionaries which is their target; `labels` if nothing is said.
    """

    size: int
    seed: int
    dtype: torch.dtype
    image: Callable[[], _Shape]
    carried: bool = False
    target: str = ""

    def read(self, text: str) -> Data:
        """The data in a `.npz` file or a folder, or what a function `package.module:function` returns.

        Raises:
            FileError: there is none, it cannot be read, or it has not the parts that training needs.
        """
        if text.endswith(".npz"):
            return self._arrays(text, _read_npz(Path(text)))
        if Path(text).is_dir():
            return self._images(Path(text))
        if ":" not in text:
            raise FileError(
                f"cannot tell what data {text!r} is. Name a .npz file with the arrays x_train and y_train "
                "(and x_test, y_test), a folder of images with a folder for each class, or "
                "package.module:function."
            )
        return self._returned(text, called(look_up(text, "--data"), text, "--data"))

    def _returned(self, text: str, found: Any) -> Data:
        match found:
            case Mapping():
                return self._arrays(text, cast("Mapping[str, Any]", found))
            case Dataset():
                return Data(self._loader(found, self.seed))
            case (Dataset() as train, Dataset() as test):
                return Data(self._loader(train, self.seed), test=self._loader(test))
            case tuple() if len(found) in {2, 4} and all(map(_is_array, found)):
                names = ("x_train", "y_train", "x_test", "y_test")
                return self._arrays(text, dict(zip(names, found, strict=False)))
            case Iterable():
                # An iterator could be read only once, and its first batch may be an example before that.
                batches = list(found) if isinstance(found, Iterator) else cast("Batches", found)
                return Data(batches, is_batched=True)
            case _:
                raise FileError(
                    f"--data {text} returned a {type(found).__name__}. It has to return a dictionary of "
                    "arrays, a tuple (x, y) or (x_train, y_train, x_test, y_test), a torch Dataset or two of "
                    "them, or batches, each a pair of inputs and targets."
                )

    def _arrays(self, where: str, arrays: Mapping[str, Any]) -> Data:
        names = ("x_train", "y_train") if "x_train" in arrays else ("x", "y")
        tests = ("x_test", "y_test") if {"x_test", "y_test"} & arrays.keys() else ()
        if lost := [name for name in (*names, *tests) if name not in arrays]:
            raise FileError(
                f"cannot train on {where}: it has {', '.join(arrays) or 'nothing'}, and no "
                f"{' and no '.join(lost)}. Needed are x_train and "
                "y_train, or x and y; for a test, x_test and y_test."
            )
        train = self._batches(*_pair(where, arrays, names, self.dtype), self.seed)
        if "x_test" not in arrays:
            return Data(train)
        return Data(train, test=self._batches(*_pair(where, arrays, ("x_test", "y_test"), self.dtype)))

    def _images(self, root: Path) -> Data:
        folders, classes = read_folder(root, self.image(), self.dtype)
        found = {
            name: self._batches(each.images, each.labels, self.seed if name == "train" else None)
            for name, each in folders.items()
        }
        return Data(found["train"], found.get("val"), found.get("test"), classes)

    def _batches(self, x: Samples, y: Tensor, seed: int | None = None) -> Arrays:
        return Streams(x, y, self.size) if self.carried else Arrays(x, y, self.size, seed)

    def _loader(self, dataset: Dataset[Any], seed: int | None = None) -> Batches:
        def collate(samples: list[Any]) -> Any:
            batch = pytree.tree_map_only(Tensor, self._typed, default_collate(samples))
            if isinstance(batch, Mapping):
                return self._parted(cast("Mapping[str, Any]", batch))
            refuse_idle({"--target": self.target}, "the samples are no dictionaries")
            return batch

        if isinstance(dataset, IterableDataset):
            return DataLoader(dataset, self.size, collate_fn=collate)
        if self.carried:
            count = len(cast("Any", dataset))
            batches = [batch.tolist() for batch in streams_of(torch.arange(count), self.size)]
            return DataLoader(dataset, batch_sampler=batches, collate_fn=collate)
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        return DataLoader(dataset, self.size, shuffle=draw is not None, generator=draw, collate_fn=collate)

    def _parted(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Keyword inputs and targets of a batch of dictionaries."""
        name = self.target or _TARGET
        if name not in batch:
            raise FileError(
                f"the samples are dictionaries of {', '.join(batch)}, and have no {name}: name the entry "
                "that is the target with --target."
            )
        return {key: each for key, each in batch.items() if key != name}, batch[name]

    def _typed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


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


def _pair(
    where: str, arrays: Mapping[str, Any], names: tuple[str, str], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x, y = (_tensor(where, name, arrays[name], dtype) for name in names)
    if len(x) != len(y) or not len(x):
        raise FileError(
            f"cannot use {where}: {names[0]} has {counted(len(x), 'sample')} and {names[1]} has "
            f"{len(y)}; they need as many, and at least one."
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
