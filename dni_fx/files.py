"""Files that are there whole or not at all."""

from __future__ import annotations

import glob
import io
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from typing_extensions import override

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
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A new file that takes the place of `path` when it is complete, and vanishes if it is not.

    What is there stays as it was until then, also if the process is killed; the new file has its permissions,
    and a link to it stays a link.

    Raises:
        FileError: the path cannot be written.
    """
    _refuse_other_kinds(path)
    target = Path(os.path.realpath(path))
    part = part_of(target)
    try:
        remove_leftovers(target.parent, target.name)
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from error


def write_as_any(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a new file, which gets the permissions of any: safetensors' own are private."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    write(path)
    path.chmod(mode)


def part_of(target: Path) -> Path:
    """Where something is written that is to take the place of `target` when it is complete."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{os.getpid()}.part")


def is_leftover(name: str) -> bool:
    """Whether a file of this name was to take the place of another one, and never did."""
    return name.startswith(".") and name.endswith(".part")


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what was to take the place of `name`, and belongs to processes that were killed.

    Raises:
        OSError: they cannot be removed.
    """
    for other in folder.glob(f".{glob.escape(name)}.*.part"):
        if not _is_alive(other.suffixes[-2]):
            other.unlink(missing_ok=True)


def write_at_once(file: IO[bytes], write: Callable[[Any], object]) -> None:
    """Let `write` write to the file; what the file refuses is raised when it is done.

    What torch has begun when a file raises, it finishes in a destructor, where an error ends the process.

    Raises:
        OSError: the file refused something.
    """
    patient = _Patient(file)
    write(patient)
    if patient.refused is not None:
        raise patient.refused


class _Patient(io.RawIOBase):
    """A file that takes everything, and keeps the error of what it could not write."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.file = file
        self.refused: OSError | None = None

    @override
    def write(self, data: Any, /) -> int:
        """Write if nothing was refused so far; returns how many bytes there were."""
        if self.refused is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.refused = error
        return len(data)

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move within what was written; where something was refused, nothing is worth moving for."""
        return 0 if self.refused is not None else self._moved(offset, whence)

    def _moved(self, offset: int, whence: int) -> int:
        try:
            return self.file.seek(offset, whence)
        except OSError as error:  # what was buffered is written first
            self.refused = error
            return 0

    @override
    def writable(self) -> bool:
        """True."""
        return True

    @override
    def seekable(self) -> bool:
        """Whether the file is."""
        return self.file.seekable()


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
