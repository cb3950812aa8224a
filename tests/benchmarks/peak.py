"""The most memory that this process has had. It is read without PyTorch, as some processes are measured."""

from __future__ import annotations

import resource
from pathlib import Path


def reset_peak() -> None:
    """Forget the peak so far, where the system can."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak() -> int:
    """The most bytes that were resident since the last reset where the system tells, else since the start.

    What `getrusage` tells may be that of the process which has started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 2**10
