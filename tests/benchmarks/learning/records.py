"""What runs found, and the file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dni_fx.diagnosis import Diagnosis


@dataclass(frozen=True)
class Point:
    """How far a run was after so many steps.

    `seconds` are of the processor, or of the clock on a GPU; `wall` are of the clock. Both are of training
    alone. `loss` is the mean over the steps since the last point, `validation` and `error` (a part of 1) are
    on data that the net does not learn.
    """

    step: int
    seconds: float
    wall: float
    loss: float
    validation: float
    error: float


@dataclass(frozen=True)
class Run:
    """What one run found. `key` says all about it; `failed` says why there is nothing.

    `boundaries` holds how well each one guesses at the end, means over the last steps.
    """

    key: str
    setting: str
    row: str
    seed: int
    points: tuple[Point, ...] = ()
    boundaries: dict[str, Diagnosis] = field(default_factory=dict)
    finite: bool = True
    warnings: tuple[str, ...] = ()
    failed: str = ""

    @property
    def steps(self) -> int:
        """How many steps it trained."""
        return self.points[-1].step if self.points else 0

    @property
    def seconds(self) -> float:
        """How long it trained."""
        return self.points[-1].seconds if self.points else 0.0

    def at_step(self, step: float, of: str) -> float:
        """A figure of the points after so many steps, on the straight line between two of them."""
        return self._between("step", step, of)

    def at_seconds(self, seconds: float, of: str) -> float:
        """A figure of the points after so many seconds."""
        return self._between("seconds", seconds, of)

    def _between(self, axis: str, place: float, of: str) -> float:
        known = [getattr(point, axis) for point in self.points]
        # A run that broke down early has no figure for later; rounding is no reason to have none.
        if not known or place > known[-1] * (1 + 1e-9):
            return float("nan")
        return float(np.interp(place, known, [getattr(point, of) for point in self.points]))


def load(path: Path | None) -> dict[str, Run]:
    """The runs of a file by their keys; none if there is no file yet."""
    if path is None or not path.exists():
        return {}
    return {run.key: run for run in map(_read, json.loads(path.read_text()))}


def save(path: Path | None, runs: Iterable[Run]) -> None:
    """Write all runs; the file is there whole, as before or as after."""
    if path is None:
        return
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    beside.replace(path)


def _read(found: dict) -> Run:
    points = tuple(Point(**point) for point in found.pop("points"))
    boundaries = {name: Diagnosis(**guesses) for name, guesses in found.pop("boundaries").items()}
    return Run(**found | {"points": points, "boundaries": boundaries, "warnings": tuple(found["warnings"])})


def said(of: Any) -> str:
    """All that the fields of a data class say, as text."""
    return " ".join(f"{name}={value}" for name, value in asdict(of).items())
