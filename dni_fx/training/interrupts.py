"""Signals that end a run between two steps and not inside one."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Asked:
    """Which signal has asked for the end, if one has."""

    number: int | None = None

    def obey(self) -> None:
        """Do what the signal would have done.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            SystemExit: it was another one.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(128 + self.number)


@contextmanager
def deferred(is_wanted: bool) -> Generator[Asked]:
    """Inside, the first Ctrl-C or request to terminate only asks; the second one has its usual effect.

    Only the main thread hears of signals, so elsewhere nothing changes.
    """
    asked = Asked()
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        asked.number = number
        if number == signal.SIGINT:
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
