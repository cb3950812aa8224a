"""How well the synthesizers of a model guess, step by step."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from dni_fx.decoupled import Decoupled, cutting_of, dnis
from dni_fx.diagnosis import Diagnosis

FIGURES = ("cosine", "sign", "error", "scale", "mix")
"""The numbers in a diagnosis."""


@dataclass(frozen=True)
class Record:
    """One step, counted from 1: its loss, how well each synthesizer guessed in it, and its metrics.

    A boundary where nobody guessed in this step is not among `boundaries`.
    """

    step: int
    loss: float
    boundaries: Mapping[str, Diagnosis]
    metrics: Mapping[str, float]


class History:
    """Keeps the steps that it is told of: all of them up to `most`, then every second, fourth and so on."""

    def __init__(self, cut: Decoupled, most: int = 1000) -> None:
        self._cut = cut
        self._most = most
        self._stride = 1
        self._steps = 0
        self._kept: list[Record] = []
        self._known = self.boundaries

    @property
    def boundaries(self) -> dict[str, Diagnosis]:
        """The last diagnosis of each boundary that has one, by the boundary's name."""
        return {name: dni.diagnosis for name, dni in dnis(self._cut).items() if dni.diagnosis is not None}

    @property
    def records(self) -> tuple[Record, ...]:
        """Steps that are equally far apart, the first one among them."""
        return tuple(self._kept)

    def fresh(self) -> dict[str, Diagnosis]:
        """What has been found at boundaries since it was asked last."""
        now = self.boundaries
        found = {name: each for name, each in now.items() if each is not self._known.get(name)}
        self._known = now
        return found

    def note(
        self,
        loss: Tensor | float,
        metrics: Mapping[str, Tensor | float] | None = None,
        step: int | None = None,
        boundaries: Mapping[str, Diagnosis] | None = None,
    ) -> Record:
        """Take in one more step, when its backward pass is over; returns what there is to say of it.

        `step` is its number, where there have been steps that nobody has told of, and `boundaries` what
        `fresh` has found in it, where that is not what it finds now.
        """
        fresh = self.fresh() if boundaries is None else boundaries
        self._steps += 1
        figures = {name: _number(value) for name, value in (metrics or {}).items()}
        record = Record(self._steps if step is None else step, _number(loss), fresh, figures)
        if (self._steps - 1) % self._stride == 0:
            self._kept.append(record)
        if len(self._kept) > self._most:
            self._kept = self._kept[::2]
            self._stride *= 2
        return record

    def state_dict(self) -> dict[str, Any]:
        """Everything that is kept, as plain dictionaries and numbers."""
        kept = [asdict(record) for record in self._kept]
        return {"kept": kept, "stride": self._stride, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned."""
        self._kept = [_record(plain) for plain in state["kept"]]
        self._stride, self._steps = state["stride"], state["steps"]


@contextmanager
def diagnose(cut: Decoupled) -> Generator[History]:
    """Inside, each synthesizer's guesses are compared with the true gradients, which costs a little time.

    For loops of your own; `dni_fx.train` does it by itself. `boundaries` holds what was found last, and
    `note` puts a step into `records`, of which 1,000 at most are kept, evenly spaced:

        with dni_fx.diagnose(cut) as found:
            for x, y in batches:
                optimizer.zero_grad()
                loss = F.cross_entropy(cut(x), y)
                loss.backward()
                optimizer.step()
                found.note(loss)
        print({name: each.cosine for name, each in found.boundaries.items()})
    """
    with diagnosed(cut, always=True):
        yield History(cut)


@contextmanager
def diagnosed(cut: Decoupled, always: bool = False) -> Generator[None]:
    """Inside, it is kept how each synthesizer's guesses compare with the true gradients.

    They are compared in every step if it is `always`, and otherwise where it is done in any case.
    """
    step = cutting_of(cut).step
    before = step.record, step.compare
    step.record, step.compare = True, always or step.compare
    try:
        yield
    finally:
        step.record, step.compare = before


def _record(plain: Mapping[str, Any]) -> Record:
    boundaries = {name: Diagnosis(**figures) for name, figures in plain["boundaries"].items()}
    figures: dict[str, Any] = {**plain, "boundaries": boundaries}
    return Record(**figures)


def _number(value: Tensor | float) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)
