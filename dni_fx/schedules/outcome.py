"""What a simulated timetable means: how fast, how idle, how much memory, who waits for whom."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from dni_fx.errors import ScheduleError
from dni_fx.schedules.actions import RECEIVES, Action, Kind, Message
from dni_fx.schedules.costs import StageCost
from dni_fx.schedules.layout import Layout
from dni_fx.schedules.timetable import Timetable

_FREES = (Kind.BACKWARD, Kind.WEIGHT_GRADIENT, Kind.SYNTHETIC_BACKWARD)
"""After one of these a stage holds no activations of a batch."""


class Span(NamedTuple):
    """When an action begins and ends, in seconds. To receive is to wait, and then to handle what has come."""

    begin: float
    end: float


class Wait(NamedTuple):
    """A rank waits for another for so much of its time, and part of that while the message is on its way."""

    rank: int
    sender: int
    share: float
    on_the_way: float


@dataclass(frozen=True)
class Outcome:
    """The spans of the actions of each rank, and when each message was sent and was there.

    What is said of the steady state looks at the second half of the steps.
    """

    timetable: Timetable
    layout: Layout
    costs: tuple[StageCost, ...]
    spans: tuple[tuple[Span, ...], ...]
    sent: Mapping[Message, float]
    arrived: Mapping[Message, float]
    bytes: Mapping[tuple[bool, int, int], float]

    @property
    def seconds(self) -> float:
        """When the last rank is done."""
        return max((spans[-1].end for spans in self.spans if spans), default=0)

    def busy(self, rank: int) -> float:
        """Seconds that a rank computes or handles messages."""
        return sum(span.end - self.waited(action, span).end for action, span in self.actions(rank))

    def waited(self, action: Action, span: Span) -> Span:
        """The part of an action in which its rank waits: empty unless it receives what is not there."""
        message = action.message
        if message is None or action.kind not in RECEIVES:
            return Span(span.begin, span.begin)
        return Span(span.begin, max(span.begin, self.arrived[message]))

    def actions(self, rank: int) -> Iterator[tuple[Action, Span]]:
        """What a rank does, and when."""
        return zip(self.timetable.ranks[rank], self.spans[rank], strict=True)

    @cached_property
    def period(self) -> float:
        """Seconds between one batch and the next in the steady state: those of the slowest rank.

        Raises:
            ScheduleError: a rank takes fewer than two steps.
        """
        return max(
            (last.end - first.end) / (last_batch - first_batch)
            for (first_batch, first), (last_batch, last) in map(self._window, range(len(self.spans)))
        )

    @property
    def throughput(self) -> float:
        """Batches a second in the steady state."""
        return 1 / self.period if self.period else float("inf")

    def idle(self, rank: int) -> float:
        """The share of its time in the steady state in which a rank waits."""
        batches = 1 + max(action.batch for action in self.timetable.ranks[rank])
        return max(1 - self.busy(rank) / batches / self.period, 0) if self.period else 0

    @cached_property
    def bubble(self) -> float:
        """The share of the time of all ranks in the steady state in which they wait."""
        return sum(self.idle(rank) for rank in range(len(self.spans))) / len(self.spans)

    def in_flight(self, rank: int) -> int:
        """Of how many batches at once a stage of the rank holds activations, at most."""
        held: Counter[int] = Counter()
        most = 0
        for action in self.timetable.ranks[rank]:
            held[action.stage] += (action.kind is Kind.FORWARD) - (action.kind in _FREES)
            most = max(most, held[action.stage])
        return most

    def peak(self, rank: int) -> float:
        """Bytes of activations, of guesses to be judged, and of messages not yet taken, at most."""
        # What is given back at a time is given back before anything else is taken.
        changes = sorted(self._changes(rank))
        return max(accumulate(change for _, change in changes), default=0)

    def waits(self) -> list[Wait]:
        """Who waits for whom in the steady state, the longest first."""
        found: list[Wait] = []
        for rank in range(len(self.spans)):
            (_, first), (_, last) = self._window(rank)
            seconds: defaultdict[int, float] = defaultdict(int)
            on_the_way: defaultdict[int, float] = defaultdict(int)
            for action, span in self.actions(rank):
                message, (begin, end) = action.message, self.waited(action, span)
                waited = end - begin
                if message and waited and first.end <= begin < last.end:
                    sender = self.timetable.sent[message]
                    seconds[sender] += waited
                    on_the_way[sender] += min(waited, self.arrived[message] - self.sent[message])
            whole = last.end - first.end
            found += [Wait(rank, by, seconds[by] / whole, on_the_way[by] / whole) for by in seconds]
        return sorted(found, key=lambda wait: (-wait.share, wait.rank, wait.sender))

    def _window(self, rank: int) -> tuple[tuple[int, Span], tuple[int, Span]]:
        """Batch and span of the updates of a rank between which it counts as settled."""
        steps = {action.batch: span for action, span in self.actions(rank) if action.kind is Kind.STEP}
        if len(steps) < 2:
            raise ScheduleError(
                f"cannot tell how fast rank {rank} is: it takes {len(steps)} steps; simulate two or more."
            )
        settled = sorted(steps.items())
        return settled[(len(settled) - 1) // 2], settled[-1]

    def _changes(self, rank: int) -> Iterator[tuple[float, float]]:
        for action, span in self.actions(rank):
            cost, message = self.costs[action.stage], action.message
            if action.kind is Kind.FORWARD:
                yield span.begin, cost.saved
            elif action.kind in _FREES:
                yield span.end, -cost.saved
            if action.kind is Kind.SYNTHETIC_BACKWARD:
                yield span.begin, cost.guessed
            elif action.kind is Kind.REGRESSION:
                yield span.end, -cost.guessed
            if message is not None and action.kind in RECEIVES:
                size = self.bytes.get(message[:3], 0)
                yield self.arrived[message], size
                yield span.end, -size
