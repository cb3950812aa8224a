"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from dni_fx.errors import FileError
from dni_fx.files import is_leftover


def check_folder(path: Path, files_of: Callable[[Path], Iterable[str]]) -> None:
    """Do nothing if a folder can be written there: there is none, an empty one, or one with our files alone.

    `files_of` tells the names of the files that belong to a folder of ours.

    Raises:
        FileError: it cannot. A folder that holds anything else is named with what it holds.
    """
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise FileError(f"cannot write {path}: {path.parent} is not to be written to.")
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise FileError(f"cannot write {path}: it is a file, and stages are written to a folder.")
    held = {each.name for each in path.iterdir()}
    if not held:
        return
    instead = "Name a new or an empty folder."
    try:
        ours = set(files_of(path))
    except FileError as error:
        raise FileError(f"cannot replace the folder {path}: {error} {instead}") from None
    if others := sorted(each for each in held - ours if not is_leftover(each)):
        raise FileError(
            f"cannot replace the folder {path}: it holds {', '.join(others[:5])}, which no "
            f"export wrote. {instead}"
        )


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """A new folder to fill, which then takes the place of `path`; after an error all is as it was.

    A link stays a link, to a new folder. The old folder is moved aside first, so for a moment there is
    none: a process that is killed just then leaves it in a hidden folder beside its place.
    """
    target = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as aside:
        fresh, old = Path(aside) / "new", Path(aside) / "old"
        fresh.mkdir()
        yield fresh
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
