"""What is wrong with a timetable, found without playing it through."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from dni_fx.errors import ScheduleError
from dni_fx.schedules.actions import BACKWARDS, SENDS, Action, Kind, Message
from dni_fx.schedules.layout import Layout
from dni_fx.schedules.timetable import Timetable

_SHOWN = 20
"""Problems that a message lists."""


def check(timetable: Timetable, layout: Layout) -> None:
    """Do nothing if ranks that follow the timetable train every stage on every batch. O(actions).

    Whether they ever wait for one another in a circle is what `simulate` finds.

    Raises:
        ScheduleError: they would not; lists what is missing, is there twice, or comes too early.
    """
    found = list(problems(timetable, layout))
    more = [f"and {len(found) - _SHOWN} more"] if found[_SHOWN:] else []
    ScheduleError.unless_none("this timetable does not train the stages", [*found[:_SHOWN], *more])


def problems(timetable: Timetable, layout: Layout) -> Iterator[str]:
    """What is missing, is there twice, or comes too early."""
    if len(timetable.ranks) != layout.ranks:
        yield f"it is for {len(timetable.ranks)} ranks, and there are {layout.ranks}"
        return
    yield from _messages(timetable)
    yield from _homes(timetable, layout)
    yield from _passes(timetable, layout)
    for rank, actions in enumerate(timetable.ranks):
        yield from _early(rank, actions, layout)


def _messages(timetable: Timetable) -> Iterator[str]:
    """Every receiving needs its sending, and the other way round."""
    sent: Counter[Message] = Counter()
    received: Counter[Message] = Counter()
    for actions in timetable.ranks:
        for action in actions:
            if (message := action.message) is not None:
                (sent if action.kind in SENDS else received)[message] += 1
    for message in {**sent, **received}:
        if sent[message] != 1 or received[message] != 1:
            is_value, sender, receiver, batch = message
            yield (
                f"the {'value' if is_value else 'gradient'} of batch {batch} from stage {sender} to stage "
                f"{receiver} is sent {_times(sent[message])} and received {_times(received[message])}"
            )


def _homes(timetable: Timetable, layout: Layout) -> Iterator[str]:
    """Every rank works on its own stages, all of which are updated at the end."""
    last: dict[int, int] = {}
    for rank, actions in enumerate(timetable.ranks):
        for stage in sorted({action.stage for action in actions} - set(layout.own(rank))):
            yield f"rank {rank} works on stage {stage}, which it does not hold"
        last |= {action.stage: action.batch for action in actions if action.kind is Kind.STEP}
    end = max((action.batch for actions in timetable.ranks for action in actions), default=0)
    for stage in range(layout.stages):
        if last.get(stage) != end:
            yield f"stage {stage} is not updated after batch {end}"


def _passes(timetable: Timetable, layout: Layout) -> Iterator[str]:
    """Every stage runs every batch once forward and once backward, and learns from what it has guessed."""
    count = Counter(
        (action.kind, action.stage, action.batch) for actions in timetable.ranks for action in actions
    )
    batches = sorted({batch for _, _, batch in count})
    for stage, batch in itertools.product(range(layout.stages), batches):
        forward = count[Kind.FORWARD, stage, batch]
        backward = sum(count[kind, stage, batch] for kind in BACKWARDS)
        if forward != 1:
            yield f"stage {stage} runs batch {batch} forward {_times(forward)}"
        if backward != 1:
            yield f"stage {stage} runs batch {batch} backward {_times(backward)}"
        if count[Kind.WEIGHT_GRADIENT, stage, batch] != count[Kind.INPUT_GRADIENT, stage, batch]:
            yield f"stage {stage} computes its gradients for batch {batch} by halves"
        if count[Kind.REGRESSION, stage, batch] != count[Kind.SYNTHETIC_BACKWARD, stage, batch]:
            yield f"stage {stage} guesses for batch {batch} and does not learn from that, or the reverse"


def _early(rank: int, actions: Sequence[Action], layout: Layout) -> Iterator[str]:
    """Nothing may come before what it needs of its own rank."""
    done: set[Action] = set()
    for action in actions:
        missing = [" or ".join(map(str, ways)) for ways in _needs(action, layout) if not done & set(ways)]
        if missing:
            yield f"rank {rank} does {action} before {' and '.join(missing)}"
        done.add(action)


_WHOLE = (Kind.BACKWARD, Kind.SYNTHETIC_BACKWARD)
_BEFORE: dict[Kind, tuple[Kind, ...]] = {
    Kind.BACKWARD: (Kind.FORWARD,),
    Kind.INPUT_GRADIENT: (Kind.FORWARD,),
    Kind.WEIGHT_GRADIENT: (Kind.INPUT_GRADIENT,),
    Kind.SYNTHETIC_BACKWARD: (Kind.FORWARD,),
    Kind.REGRESSION: (Kind.SYNTHETIC_BACKWARD,),
    Kind.STEP: (Kind.WEIGHT_GRADIENT, *_WHOLE),
    Kind.SEND_VALUE: (Kind.FORWARD,),
    Kind.SEND_GRADIENT: BACKWARDS,
}
"""What a stage must have done before, one of each."""


def _needs(action: Action, layout: Layout) -> Iterator[tuple[Action, ...]]:
    """What must be done before an action on its rank: one of each."""
    stage, batch = action.stage, action.batch
    if action.kind in _BEFORE:
        yield tuple(Action(kind, stage, batch) for kind in _BEFORE[action.kind])
    if action.kind in (Kind.BACKWARD, Kind.INPUT_GRADIENT, Kind.REGRESSION):
        yield from _gradients(stage, batch, layout)
    if action.kind is Kind.FORWARD:
        for each in layout.incoming.get(stage, ()):
            local = layout.is_local(each)
            kind, of = (Kind.FORWARD, each.producer) if local else (Kind.RECEIVE_VALUE, stage)
            yield (Action(kind, of, batch, None if local else each.producer),)


def _gradients(stage: int, batch: int, layout: Layout) -> Iterator[tuple[Action, ...]]:
    """The gradients of all that a stage has made."""
    for each in layout.outgoing.get(stage, ()):
        if each.carries and layout.is_local(each):
            yield tuple(Action(kind, each.consumer, batch) for kind in BACKWARDS)
        elif each.carries:
            yield (Action(Kind.RECEIVE_GRADIENT, stage, batch, each.consumer),)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
