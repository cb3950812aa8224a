"""Ctrl-C while this project is imported, when nothing is at stake."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

SAID = "dni-fx: interrupted; no file is half written"
CODE = 130


@contextmanager
def ending_at_once() -> Generator[None]:
    """Inside, Ctrl-C says so in one line and ends the process.

    Raised in the middle of an import, the exception may be lost in a callback, or come out as another one.
    Where somebody else listens to the signal, or it is ignored, nothing changes.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{SAID}\n".encode())
    os._exit(CODE)
