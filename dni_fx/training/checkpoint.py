"""The state of a run in one file, which is there whole or not at all."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from dni_fx.errors import FileError
from dni_fx.files import write_whole

VERSION = 1


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the file by one with this state: tensors, numbers, texts, and containers of them.

    Raises:
        FileError: the path cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"dni_fx_checkpoint": VERSION, **state}, buffer)
    write_whole(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, its tensors on the CPU; nothing in the file is run.

    Raises:
        FileError: the file cannot be read, is no checkpoint, or is from a newer version.
    """
    refusal = FileError(f"{path} is damaged, or no checkpoint of a training run.")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():  # which reads all of it; torch would not notice a changed bit
                raise refusal
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from None
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise refusal from None
    version = state.get("dni_fx_checkpoint") if isinstance(state, dict) else None
    if not isinstance(version, int):
        raise FileError(f"{path} is no checkpoint of a training run.")
    if version > VERSION:
        raise FileError(
            f"{path} was written by a newer dni_fx: it is of version {version}, this is {VERSION}."
        )
    return state
