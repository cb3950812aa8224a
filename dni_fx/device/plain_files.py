"""Whether the files that a folder's manifest names are files of the folder, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path


def misplaced(folder: Path, files: Sequence[str]) -> Iterator[str]:
    """What is wrong with names of files, the manifest's own first: one that was sent may name any file."""
    own, *names = files
    for name in names:
        if not _is_plain(name):
            yield f"{name!r:.80} is not the name of a file in the folder"
            continue
        path = folder / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                yield f"{name} is a link, a folder or a device, and no plain file"
        except OSError as error:
            yield f"{name}: {error.strerror or error}"
    if len(set(names)) < len(names) or own in names:
        yield "two stages have one file"


def _is_plain(name: str) -> bool:
    return (
        bool(name)
        and name.isprintable()
        and name not in {os.curdir, os.pardir}
        and not any(mark in name for mark in "/\\:")
        and len(name) < 256
    )
