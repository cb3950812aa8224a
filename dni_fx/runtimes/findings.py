"""What a step has to tell, wherever its parts were found out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from dni_fx.diagnosis import Diagnosis
from dni_fx.distributed.post import Post


@dataclass(frozen=True)
class Findings:
    """The figures of one step: its number, how many samples it had, its loss and metrics, and its diagnoses.

    A loss that another process knows is None.
    """

    step: int
    size: int
    loss: Tensor | float | None
    metrics: Mapping[str, Tensor | float]
    boundaries: Mapping[str, Diagnosis]


class Reports:
    """Brings together on the first rank what all ranks have to tell of a step, when the last has told it."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self._waiting: deque[Findings] = deque()
        self._runs = 0

    def begin(self) -> None:
        """Forget what is left of a run that was broken off, here and on the way: all processes do it."""
        self._waiting.clear()
        self._runs += 1

    def tell(self, told: Findings, most: int) -> Iterator[Findings]:
        """Take in one more step; the first rank gets the steps that are whole, and waits for what is older.

        That is older than `most` steps for each rank: so nobody is farther ahead of the others than that.
        """
        if self.post.rank:
            self.post.send(0, self._topic, _plain(told))
            return
        self._waiting.append(told)
        yield from self.rest(most * self.post.size)

    def rest(self, most: int = 0) -> Iterator[Findings]:
        """On the first rank, the steps that are whole; waits until no more than so many are not."""
        while self._waiting and (len(self._waiting) > most or self._is_there()):
            parts = [self._waiting.popleft()]
            parts += [_read(self.post.take(other, self._topic)) for other in self.post.others]
            yield _together(parts)

    @property
    def _topic(self) -> str:
        return f"figures {self._runs}"

    def _is_there(self) -> bool:
        return all(self.post.there(other, self._topic) for other in self.post.others)


def _together(parts: list[Findings]) -> Findings:
    first, known = parts[0], [part for part in parts if part.loss is not None]
    loss = sum(float(part.loss) for part in known if part.loss is not None) / len(known)
    metrics = {
        name: sum(float(part.metrics[name]) for part in known) / len(known) for name in known[0].metrics
    }
    boundaries = {name: found for part in reversed(parts) for name, found in part.boundaries.items()}
    return Findings(first.step, sum(part.size for part in known), loss, metrics, boundaries)


def _plain(told: Findings) -> dict[str, Any]:
    loss = told.loss.detach() if isinstance(told.loss, Tensor) else told.loss
    return {
        "step": told.step,
        "size": told.size,
        "loss": None if loss is None else float(loss),
        "metrics": {name: float(value) for name, value in told.metrics.items()},
        "boundaries": {name: asdict(found) for name, found in told.boundaries.items()},
    }


def _read(plain: Mapping[str, Any]) -> Findings:
    boundaries = {name: Diagnosis(**figures) for name, figures in plain["boundaries"].items()}
    figures: dict[str, Any] = {**plain, "boundaries": boundaries}
    return Findings(**figures)
