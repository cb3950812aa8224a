"""Means of what is measured, batch by batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dni_fx.diagnosis import Diagnosis
from dni_fx.history import FIGURES, Record


class Means:
    """Weighted means of numbers by name."""

    def __init__(self) -> None:
        self.totals: defaultdict[str, Tensor | float] = defaultdict(float)
        self.weights: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, value: Tensor | float, weight: float) -> None:
        """Take in one number; one on a device is not waited for, and one of no weight may be anything."""
        number = value.detach() if isinstance(value, Tensor) else value
        self.totals[name] = self.totals[name] + (number * weight if weight else 0.0)
        self.weights[name] += weight

    def all(self) -> dict[str, float]:
        """The mean of every name; nan of nothing."""
        weights = {name: weight or math.nan for name, weight in self.weights.items()}
        return {name: float(total) / weights[name] for name, total in self.totals.items()}

    def state_dict(self) -> dict[str, tuple[float, float]]:
        """Total and weight of every name."""
        return {name: (float(total), self.weights[name]) for name, total in self.totals.items()}

    def load_state_dict(self, state: Mapping[str, tuple[float, float]]) -> None:
        """Go back to a state that `state_dict` returned."""
        self.totals = defaultdict(float, {name: total for name, (total, _) in state.items()})
        self.weights = defaultdict(float, {name: weight for name, (_, weight) in state.items()})


class Sofar:
    """The means of one epoch up to now: of loss and metrics, and of the finite figures of each boundary."""

    def __init__(self) -> None:
        self.figures = Means()
        self.guesses: defaultdict[str, Means] = defaultdict(Means)
        self.locked: dict[str, bool] = {}
        self.steps = 0
        self.seconds = 0.0

    def add(self, record: Record, size: int) -> None:
        """Take in one step with so many samples."""
        self.steps += 1
        for name, value in {"loss": record.loss, **record.metrics}.items():
            self.figures.add(name, value, size)
        for name, diagnosis in record.boundaries.items():
            self.locked[name] = diagnosis.locked
            for figure in FIGURES:
                if math.isfinite(value := getattr(diagnosis, figure)):
                    self.guesses[name].add(figure, value, 1)

    def boundaries(self) -> dict[str, Diagnosis]:
        """The mean diagnosis of every boundary."""
        nothing = dict.fromkeys(FIGURES, math.nan)
        return {
            name: Diagnosis(**nothing | self.guesses[name].all(), locked=locked)
            for name, locked in self.locked.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers."""
        guesses = {name: means.state_dict() for name, means in self.guesses.items()}
        return {
            "figures": self.figures.state_dict(),
            "guesses": guesses,
            "locked": dict(self.locked),
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned."""
        self.figures.load_state_dict(state["figures"])
        for name, means in state["guesses"].items():
            self.guesses[name].load_state_dict(means)
        self.locked = dict(state["locked"])
        self.steps, self.seconds = state["steps"], state["seconds"]
