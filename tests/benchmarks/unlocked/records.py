"""What was measured, in a file that makes a command go on where it was stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dni_fx.files import write_whole


class Book:
    """Figures by a key that says all they depend on; what is known is not measured again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
        self.failed: dict[str, str] = {}

    def figures(self, key: str, measure: Callable[[], Any]) -> Any:
        """The figures of this key, as what JSON can hold; None if there are none, and `failed` says why."""
        if key not in self.known:
            start = time.monotonic()
            try:
                self.known[key] = json.loads(json.dumps(measure()))
            except RuntimeError as error:
                self.failed[key] = str(error)
            say(f"{time.monotonic() - start:.0f} s: {key[:120]} {self.failed.get(key, '')}")
            self._write()
        return self.known.get(key)

    def _write(self) -> None:
        if self.path is not None:
            write_whole(self.path, (json.dumps(self.known, indent=1) + "\n").encode())


def say(line: str) -> None:
    """Tell of progress, beside the table."""
    print(line, file=sys.stderr, flush=True)
