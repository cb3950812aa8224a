"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dni_fx.errors import FileError


def check_place(path: Path | None) -> None:
    """Do nothing if a file can be written there, so that no one waits for work that is then lost.

    Raises:
        FileError: it cannot.
    """
    if path is None:
        return
    _refuse_other_kinds(path)
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FileError(f"cannot write {path}: {path.parent}: {error.strerror or error}.") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; one that is there stays as it was until then, also if the process is killed.

    Raises:
        FileError: the path cannot be written.
    """
    with placed(path) as part:
        part.write_bytes(data)


@contextmanager
def placed(path: Path) -> Generator[Path]:
    """Inside, a file is written beside its place, and put there when it is whole.

    Raises:
        FileError: the path cannot be written.
    """
    _refuse_other_kinds(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        for other in path.parent.glob(f".{path.name}.*.part"):
            if not _is_alive(other.suffixes[-2]):  # left by a process that was killed
                other.unlink(missing_ok=True)
        try:
            part.touch()
            mode = stat.S_IMODE((path if path.exists() else part).stat().st_mode)
            yield part
            part.chmod(mode)  # libraries that write files take away the rights of others
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from None


def _refuse_other_kinds(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from None
    if stat.S_ISDIR(mode):
        raise FileError(f"cannot write {path}: it is a folder. Name a file in it.")
    if not stat.S_ISREG(mode):  # which who may do that would replace by a file
        raise FileError(f"cannot write {path}: it is a device or a pipe. Name a file.")


def _is_alive(number: str) -> bool:
    """Whether a process with this number, after a dot, runs; what is no number is nobody's to remove."""
    try:
        os.kill(int(number[1:]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True
