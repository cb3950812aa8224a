"""What each rank does, in order, as data with a text form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from typing_extensions import override

from dni_fx.schedules.actions import Action, Kind, Message, parse_action
from passes import SpecError


@dataclass(frozen=True)
class Timetable:
    """What each rank does, in order. Its text has a line for each rank, and `parse_timetable` reads it.

    Whoever carries it out does what stands in the line of its rank from left to right, and asks nobody.
    Sending does not wait; receiving waits for what was sent, whatever else has come meanwhile, so messages
    are told apart by kind, stages and batch. What stays on a rank is not sent.
    """

    ranks: tuple[tuple[Action, ...], ...]

    @cached_property
    def rank_of(self) -> dict[int, int]:
        """The rank that holds each stage: where its first forward pass runs."""
        found: dict[int, int] = {}
        for rank, actions in enumerate(self.ranks):
            for action in actions:
                if action.kind is Kind.FORWARD:
                    found.setdefault(action.stage, rank)
        return found

    @cached_property
    def sent(self) -> dict[Message, int]:
        """Everything that is sent at some time, and by which rank."""
        return {
            message: rank
            for rank, actions in enumerate(self.ranks)
            for action in actions
            if action.kind in (Kind.SEND_VALUE, Kind.SEND_GRADIENT)
            and (message := action.message) is not None
        }

    @override
    def __str__(self) -> str:
        return "\n".join(f"{rank}: {' '.join(map(str, line))}" for rank, line in enumerate(self.ranks))


def parse_timetable(text: str) -> Timetable:
    r"""Read a timetable; the inverse of `str`. Empty lines are left out.

    >>> print(parse_timetable("0: F0.0 SV0>1.0\n1: RV1<0.0 F1.0"))
    0: F0.0 SV0>1.0
    1: RV1<0.0 F1.0

    Raises:
        SpecError: a line has not the number of its rank, or an action cannot be read; says which.
    """
    ranks: list[tuple[Action, ...]] = []
    for line in filter(str.strip, text.splitlines()):
        number, mark, actions = line.partition(":")
        if not mark or number.strip() != str(len(ranks)):
            raise SpecError(
                f"the line of rank {len(ranks)} begins with '{len(ranks)}:', and not {line[:20]!r}."
            )
        try:
            ranks.append(tuple(map(parse_action, actions.split())))
        except SpecError as error:
            raise SpecError(f"rank {len(ranks)}: {error}") from None
    return Timetable(tuple(ranks))
