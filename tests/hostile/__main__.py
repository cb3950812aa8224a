"""Show what is said of each hostile file, and what was done while it was read."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import dni_fx
from tests.hostile.cases import all_cases, plant_module
from tests.hostile.watch import watched


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, canary = Path(folder) / "file.pt2", Path(folder) / "canary"
        sys.path.insert(0, str(plant_module(canary)))
        for name, content in all_cases(canary):
            path.write_bytes(content)
            start = time.perf_counter()
            with watched() as seen:
                try:
                    dni_fx.load(path)
                    said = "LOADED"
                except (dni_fx.DniError, dni_fx.GraphError) as error:
                    said = str(error).replace(f"{folder}/", "")
                except Exception as error:
                    said = f"!!! {type(error).__name__}: {error}"
            spent = 1000 * (time.perf_counter() - start)
            bad = f" DONE: {seen}" if seen or canary.exists() else ""
            print(f"{name} ({spent:.0f} ms){bad}\n    {said:.300}")


if __name__ == "__main__":
    main()
