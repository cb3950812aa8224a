"""Files that are there whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dni_fx.errors import FileError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; one that is there stays as it was until then.

    Raises:
        FileError: the path cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            part = Path(folder) / path.name
            part.write_bytes(data)
            part.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from None
