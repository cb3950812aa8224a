"""One thing that a rank does: `F0.3` is the forward pass of stage 0 on batch 3."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from typing_extensions import override

from passes import SpecError


class Kind(StrEnum):
    """What is done. The value is how it is written.

    A backward pass is whole, or in two parts: the gradient of what the stage reads, which others wait for,
    and those of its parameters, for which nobody does. A synthetic one is whole, and starts from the guesses
    of the stage's synthesizers, which learn at a regression, when the true gradients are there.
    """

    FORWARD = "F"
    BACKWARD = "B"
    INPUT_GRADIENT = "I"
    WEIGHT_GRADIENT = "W"
    SYNTHETIC_BACKWARD = "S"
    REGRESSION = "R"
    STEP = "U"
    SEND_VALUE = "SV"
    RECEIVE_VALUE = "RV"
    SEND_GRADIENT = "SG"
    RECEIVE_GRADIENT = "RG"

    __hash__ = str.__hash__  # that of an enum runs in Python, and is asked for millions of times


SENDS = {Kind.SEND_VALUE: Kind.RECEIVE_VALUE, Kind.SEND_GRADIENT: Kind.RECEIVE_GRADIENT}
"""What answers each kind of sending."""
RECEIVES = {answer: send for send, answer in SENDS.items()}
"""What each kind of receiving answers."""
BACKWARDS = (Kind.BACKWARD, Kind.INPUT_GRADIENT, Kind.SYNTHETIC_BACKWARD)
"""After one of these the gradient of what a stage reads is there."""
_TEXT = re.compile(r"(?P<kind>[A-Z]+)(?P<stage>\d+)(?:(?P<arrow>[<>])(?P<peer>\d+))?\.(?P<batch>\d+)")


class Message(NamedTuple):
    """What is sent from one stage to another: a value or its gradient, of one batch."""

    is_value: bool
    sender: int
    receiver: int
    batch: int


class Action(NamedTuple):
    """What a rank does for one of its stages and one (micro-)batch, counted over all steps from 0.

    What it sends goes to the stage `peer`, and what it receives is from there: `SV0>1.3`, `RV1<0.3`.
    `parse_action` reads its text. A step updates the weights with the gradients of all batches up to its own.
    """

    kind: Kind
    stage: int
    batch: int
    peer: int | None = None

    @property
    def message(self) -> Message | None:
        """What it sends or receives; None if it computes."""
        if self.peer is None:
            return None
        if self.kind in SENDS:
            return Message(self.kind is Kind.SEND_VALUE, self.stage, self.peer, self.batch)
        return Message(self.kind is Kind.RECEIVE_VALUE, self.peer, self.stage, self.batch)

    @override
    def __str__(self) -> str:
        arrow = ">" if self.kind in SENDS else "<"
        peer = "" if self.peer is None else f"{arrow}{self.peer}"
        return f"{self.kind}{self.stage}{peer}.{self.batch}"


def parse_action(text: str) -> Action:
    """Read one action; the inverse of `str`.

    >>> parse_action("RV1<0.3")
    Action(kind=<Kind.RECEIVE_VALUE: 'RV'>, stage=1, batch=3, peer=0)

    Raises:
        SpecError: the text is no action.
    """
    found = _TEXT.fullmatch(text)
    if found is not None and found["kind"] in list(Kind):
        kind = Kind(found["kind"])
        arrow = ">" if kind in SENDS else "<" if kind in RECEIVES else None
        if found["arrow"] == arrow:
            peer = found["peer"]
            return Action(kind, int(found["stage"]), int(found["batch"]), int(peer) if peer else None)
    raise SpecError(
        f"{text!r} is no action. Write F0.3 for the forward pass of stage 0 on batch 3, SV0>1.3 for what it "
        f"sends to stage 1, RV1<0.3 for what that receives. Kinds: {', '.join(Kind)}."
    )
