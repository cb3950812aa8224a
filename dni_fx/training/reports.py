"""What a training run measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dni_fx.diagnosis import Diagnosis
from dni_fx.history import Record
from passes.words import counted


@dataclass(frozen=True)
class Epoch:
    """Means over one pass through the data.

    `boundaries` holds means of the finite figures of each diagnosis; `locked` is as it was at the end.
    `validation` holds the loss and the metrics on other data, if there are any.
    """

    loss: float
    metrics: Mapping[str, float]
    boundaries: Mapping[str, Diagnosis]
    steps: int
    seconds: float
    validation: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def cosine(self) -> dict[str, float]:
        """The mean cosine of synthetic and true gradient, by boundary."""
        return {name: mean.cosine for name, mean in self.boundaries.items()}

    def __str__(self) -> str:
        parts = [f"loss {self.loss:.4f}", *(f"{name} {value:.4f}" for name, value in self.metrics.items())]
        parts += [f"validation {name} {value:.4f}" for name, value in self.validation.items()]
        parts += [
            f"cosine({name}) {mean.cosine:+.2f}{' locked' if mean.locked else ''}"
            for name, mean in self.boundaries.items()
        ]
        return f"{', '.join(parts)} ({counted(self.steps, 'step')} in {self.seconds:.1f} s)"

    def plain(self) -> dict[str, Any]:
        """As dictionaries and numbers."""
        return asdict(self)

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Epoch:
        """What `plain` was made of."""
        boundaries = {name: Diagnosis(**figures) for name, figures in plain["boundaries"].items()}
        figures: dict[str, Any] = {**plain, "boundaries": boundaries}
        return Epoch(**figures)


@dataclass(frozen=True)
class Training:
    """What a run of `train` measured, by epochs, and by steps: 1,000 of them at most, evenly spaced."""

    epochs: tuple[Epoch, ...]
    history: tuple[Record, ...] = ()

    def __str__(self) -> str:
        return "\n".join(f"epoch {i}: {epoch}" for i, epoch in enumerate(self.epochs, start=1))
