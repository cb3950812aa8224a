"""Errors in the worker processes of a data loader, which arrive as one text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRAPPED = re.compile(
    r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback \(most recent call last\):\n",
    re.ASCII,
)
_FRAME = re.compile(r'  File "(.+)", line (\d+), in (.+)')


@dataclass(frozen=True)
class Frame:
    """A place in the traceback of a worker."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class WorkerError:
    """What was raised in a worker, in one line, and on the way through which places."""

    said: str
    frames: tuple[Frame, ...]


def from_worker(error: BaseException) -> WorkerError | None:
    """What torch has put into the text of an error, if it comes from a worker of a data loader."""
    text = str(error)
    if (start := _WRAPPED.match(text)) is None:
        return None
    lines = text[start.end() :].splitlines()
    found = {at: match for at, line in enumerate(lines) if (match := _FRAME.match(line)) is not None}
    # Below a frame its code is indented; what follows is the error, and the rest of its text.
    after = lines[max(found, default=-1) + 1 :]
    said = next((line for line in after if line and not line.startswith(" ")), type(error).__name__)
    frames = (Frame(match[1], int(match[2]), match[3]) for match in found.values())
    return WorkerError(said, tuple(frames))
