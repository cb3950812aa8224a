"""All files that were damaged or made to do harm, by what was done to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.hostile import contents, graphs, zips
from tests.hostile.good import Cases


def all_cases(canary: Path) -> Cases:
    """Each name once; `canary` is the folder that code in them would make."""
    for cases in _families(canary):
        yield from cases


def _families(canary: Path) -> Iterator[Cases]:
    for make in (zips.cut_short, zips.flipped, zips.shuffled, zips.misplaced, zips.lying, zips.other_kinds):
        yield make()
    for make in (
        graphs.targets,
        graphs.expressions,
        graphs.names,
        graphs.trees,
        graphs.arguments,
        graphs.shapes,
    ):
        yield make()
    yield contents.tables()
    yield contents.descriptions()
    yield contents.example_inputs(canary)


def plant_module(canary: Path) -> Path:
    """A module that makes the canary when somebody imports it; returns the folder that it lies in."""
    text = f"import os\nos.makedirs({str(canary)!r}, exist_ok=True)\nclass Kind: pass\n"
    (canary.parent / f"{graphs.CANARY}.py").write_text(text, "utf-8")
    return canary.parent
