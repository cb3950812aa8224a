"""A timetable played through event by event, without a process."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from dni_fx.errors import ScheduleError
from dni_fx.schedules.actions import RECEIVES, Action, Message
from dni_fx.schedules.costs import Network, StageCost
from dni_fx.schedules.deadlock import refuse_deadlock
from dni_fx.schedules.layout import Layout
from dni_fx.schedules.outcome import Outcome, Span
from dni_fx.schedules.timetable import Timetable


def simulate(
    timetable: Timetable, layout: Layout, costs: Sequence[StageCost], network: Network | None = None
) -> Outcome:
    """When each action of each rank begins and ends.

    A rank does one thing after another. A message leaves when its sender has handled it and those before it
    have left the rank; it is there after the latency, once all of it has come through the line of the
    receiver, which takes messages one by one in the order in which they begin to arrive. It is handled when
    the receiver takes it. Numbers may be fractions, for exact times.
    O(A log M) for A actions and M messages.

    Raises:
        ScheduleError: ranks wait for ever (says who for whom), or there are not as many costs as stages.
    """
    if len(costs) != layout.stages:
        raise ScheduleError(f"cannot simulate {layout.stages} stages by the costs of {len(costs)}.")
    return _Play(timetable, layout, costs, network or Network()).run()


@dataclass
class _Rank:
    """Where a rank is: its next action, its clock, and until when its lines are busy."""

    actions: Sequence[Action]
    at: int = 0
    now: float = 0
    out_until: float = 0
    in_until: float = 0
    spans: list[Span] = field(default_factory=list[Span])

    @property
    def awaited(self) -> Message | None:
        """What it needs to go on, if that is to be received."""
        return self.actions[self.at].message if self.at < len(self.actions) else None


class _Play:
    def __init__(
        self, timetable: Timetable, layout: Layout, costs: Sequence[StageCost], network: Network
    ) -> None:
        self.timetable, self.layout, self.costs, self.network = timetable, layout, costs, network
        self.ranks = [_Rank(actions) for actions in timetable.ranks]
        self.bytes = {(True, each.producer, each.consumer): each.value_bytes for each in layout.connections}
        self.bytes |= {
            (False, each.consumer, each.producer): each.gradient_bytes for each in layout.connections
        }
        self.sent: dict[Message, float] = {}
        self.arrived: dict[Message, float] = {}
        # Messages by when they begin to arrive; what begins together keeps the order in which it was sent.
        self.coming: list[tuple[float, int, Message]] = []
        self.number = count()

    def run(self) -> Outcome:
        for rank in self.ranks:
            self._advance(rank)
        while self.coming:
            begins, _, message = heapq.heappop(self.coming)
            if (home := self.timetable.rank_of.get(message.receiver)) is None:
                continue  # nobody holds the stage, so nobody waits
            rank = self.ranks[home]
            # What comes through the line alone has come at the pace at which it was sent.
            rank.in_until = max(begins, rank.in_until) + self.network.seconds(self._size(message))
            self.arrived[message] = rank.in_until
            if rank.awaited == message:
                self._advance(rank)
        stuck = {
            at: rank.actions[rank.at] for at, rank in enumerate(self.ranks) if rank.at < len(rank.actions)
        }
        refuse_deadlock(self.timetable, stuck)
        spans = tuple(tuple(rank.spans) for rank in self.ranks)
        return Outcome(
            self.timetable, self.layout, tuple(self.costs), spans, self.sent, self.arrived, self.bytes
        )

    def _advance(self, rank: _Rank) -> None:
        """Do what a rank can do before it has to wait for what is not there."""
        while rank.at < len(rank.actions):
            action = rank.actions[rank.at]
            message, begin = action.message, rank.now
            if message is None:
                rank.now += self.costs[action.stage].seconds(action.kind)
            elif action.kind in RECEIVES:
                if message not in self.arrived:
                    return
                handled = self.network.receiving.seconds(self._size(message))
                rank.now = max(rank.now, self.arrived[message]) + handled
            else:
                self._send(rank, message)
            rank.spans.append(Span(begin, rank.now))
            rank.at += 1

    def _send(self, rank: _Rank, message: Message) -> None:
        rank.now += self.network.sending.seconds(self._size(message))
        self.sent[message] = rank.now
        leaves = max(rank.now, rank.out_until)
        rank.out_until = leaves + self.network.seconds(self._size(message))
        heapq.heappush(self.coming, (leaves + self.network.latency, next(self.number), message))

    def _size(self, message: Message) -> float:
        return self.bytes.get(message[:3], 0)
