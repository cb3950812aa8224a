"""Which stages there are, what they send to one another, and which rank holds which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dni_fx.errors import ScheduleError


@dataclass(frozen=True)
class Connection:
    """A stage sends so many bytes to a later one, which sends a gradient back if the value `carries` one.

    All that goes from the one to the other for a batch is one message; what several read is sent to each.
    """

    producer: int
    consumer: int
    value_bytes: float = 0
    gradient_bytes: float = 0
    carries: bool = True


@dataclass(frozen=True)
class Layout:
    """Stages on ranks: each rank holds a stretch of the stages, and no two differ by more than one in length.

    Raises:
        ScheduleError: a rank would have no stage, or connections do not lead from stages to later ones.
    """

    ranks: int
    stages: int
    connections: tuple[Connection, ...]

    def __post_init__(self) -> None:
        ScheduleError.unless_none(f"cannot put {self.stages} stages on {self.ranks} ranks", self._problems())

    def _problems(self) -> Iterator[str]:
        if self.ranks < 1:
            yield "there must be a rank"
        if self.stages < self.ranks:
            yield "each rank needs a stage: cut the model into more of them, or use fewer ranks"
        pairs: set[tuple[int, int]] = set()
        for each in self.connections:
            if not 0 <= each.producer < each.consumer < self.stages:
                yield f"stage {each.producer} cannot send to stage {each.consumer}: values go to later stages"
            if (each.producer, each.consumer) in pairs:
                yield f"stage {each.producer} is connected with stage {each.consumer} twice"
            pairs.add((each.producer, each.consumer))

    def rank_of(self, stage: int) -> int:
        """The rank that holds a stage."""
        return ((stage + 1) * self.ranks - 1) // self.stages

    def own(self, rank: int) -> range:
        """The stages of a rank."""
        return range(rank * self.stages // self.ranks, (rank + 1) * self.stages // self.ranks)

    @cached_property
    def incoming(self) -> dict[int, list[Connection]]:
        """What each stage reads of others."""
        found: dict[int, list[Connection]] = defaultdict(list)
        for each in self.connections:
            found[each.consumer].append(each)
        return found

    @cached_property
    def outgoing(self) -> dict[int, list[Connection]]:
        """What of each stage others read."""
        found: dict[int, list[Connection]] = defaultdict(list)
        for each in self.connections:
            found[each.producer].append(each)
        return found

    def is_local(self, connection: Connection) -> bool:
        """Whether both ends are on one rank, so that nothing is sent."""
        return self.rank_of(connection.producer) == self.rank_of(connection.consumer)

    def learns(self, stage: int) -> bool:
        """Whether something that the stage makes gets its gradient from a later stage."""
        return any(each.carries for each in self.outgoing.get(stage, ()))


def chain(ranks: int, stages: int | None = None, value_bytes: float = 0) -> Layout:
    """Stages of which each sends one value to the next, and its gradient, as large, comes back.

    There are as many as there are ranks if it is not said how many.
    """
    count = ranks if stages is None else stages
    links = (Connection(at, at + 1, value_bytes, value_bytes) for at in range(count - 1))
    return Layout(ranks, count, tuple(links))
