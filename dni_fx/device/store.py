"""The weights and all else that stages keep, from file to memory when a stage runs, and back."""

from __future__ import annotations

import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from dni_fx.device.errors import DeviceError

Array = NDArray[Any]


class Store:
    """The tensors of all stages, each in the file of its stage, by the names that graphs know them by.

    As many bytes of them as `most` are kept in memory, those of the stages that were used last, and
    always one stage; a stage that was changed is written when it has to make room, and by `flush`.
    Without a bound all stages stay, and are written by `flush` alone.
    """

    def __init__(self, folder: Path, files: Mapping[int, str], most: int | None) -> None:
        self.folder = folder
        self.files = dict(files)
        self.most = most
        self.homes: dict[str, int] = {}
        self._held: OrderedDict[int, dict[str, Array]] = OrderedDict()
        self._changed: set[int] = set()
        for stage, file in self.files.items():
            try:
                with safe_open(folder / file, "numpy") as opened:
                    self.homes |= dict.fromkeys(opened.keys(), stage)
            except (SafetensorError, OSError) as error:
                raise DeviceError(f"cannot read {folder / file}: {error}") from None
        if "steps" not in self.homes:
            raise DeviceError(f"{folder} is damaged: its files do not tell how many steps there were.")

    def __contains__(self, name: str) -> bool:
        return name in self.homes

    def __getitem__(self, name: str) -> Array:
        if name not in self.homes:
            raise DeviceError(f"{self.folder} is damaged: none of its files has {name}.")
        return self._of(self.homes[name])[name]

    def __setitem__(self, name: str, value: Array) -> None:
        stage = self.homes[name]
        held = self._of(stage)
        if held[name].shape != value.shape or held[name].dtype != value.dtype:
            raise DeviceError(
                f"{name} is {held[name].dtype} of shape {held[name].shape}, and {value.dtype} of shape "
                f"{value.shape} is to take its place."
            )
        held[name] = value
        self._changed.add(stage)

    def flush(self) -> None:
        """Write every stage that was changed to its file."""
        for stage in sorted(self._changed):
            self._write(stage)

    def _of(self, stage: int) -> dict[str, Array]:
        if stage not in self._held:
            self._held[stage] = self._read(stage)
        self._held.move_to_end(stage)
        while self.most is not None and len(self._held) > 1 and self._bytes() > self.most:
            oldest = next(iter(self._held))
            if oldest in self._changed:
                self._write(oldest)
            del self._held[oldest]
        return self._held[stage]

    def _read(self, stage: int) -> dict[str, Array]:
        path = self.folder / self.files[stage]
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DeviceError(f"cannot read {path}: {error}") from None
        if missing := [name for name, home in self.homes.items() if home == stage and name not in found]:
            raise DeviceError(f"cannot read {path}: it has no {', '.join(missing[:5])} any more.")
        return found

    def _bytes(self) -> int:
        return sum(each.nbytes for held in self._held.values() for each in held.values())

    def _write(self, stage: int) -> None:
        """Replace the file of a stage; it is there whole or as it was, whatever happens."""
        path = self.folder / self.files[stage]
        write_tensors(path, self._held[stage])
        self._changed.discard(stage)


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a file of tensors that is there whole or not at all.

    Raises:
        DeviceError: it cannot be written.
    """
    try:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.part")
        try:
            part.touch()
            mode = stat.S_IMODE((path if path.exists() else part).stat().st_mode)
            save_file({key: np.asarray(each, order="C") for key, each in tensors.items()}, part)
            part.chmod(mode)  # by itself it would be its owner's alone
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise DeviceError(f"cannot write {path}: {error}. What was there is as it was.") from None
