"""The actions of one rank, written down in order."""

from __future__ import annotations

from collections.abc import Iterator

from dni_fx.schedules.actions import Action, Kind
from dni_fx.schedules.layout import Layout


class Line:
    """What one rank does; each method adds what it does for one batch, for all of its stages.

    It receives what is needed just before that, and sends what is there at once, without waiting for it.
    """

    def __init__(self, layout: Layout, rank: int) -> None:
        self.layout, self.rank = layout, rank
        self.own = layout.own(rank)
        self.actions: list[Action] = []

    def forward(self, batch: int) -> None:
        """The forward passes."""
        for stage in self.own:
            self.forward_of(stage, batch)

    def forward_of(self, stage: int, batch: int) -> None:
        """The forward pass of one stage."""
        for peer in self._senders(stage):
            self._add(Kind.RECEIVE_VALUE, stage, batch, peer)
        self._add(Kind.FORWARD, stage, batch)
        for each in self.layout.outgoing.get(stage, ()):
            if not self.layout.is_local(each):
                self._add(Kind.SEND_VALUE, stage, batch, each.consumer)

    def backward(self, batch: int, kind: Kind = Kind.BACKWARD) -> None:
        """The backward passes from true gradients, whole or the first part of them."""
        for stage in reversed(self.own):
            self.receive_gradients(stage, batch)
            self.backward_of(stage, batch, kind)

    def backward_of(self, stage: int, batch: int, kind: Kind) -> None:
        """The backward pass of one stage, when it has all that it starts from."""
        self._add(kind, stage, batch)
        for each in self.layout.incoming.get(stage, ()):
            if each.carries and not self.layout.is_local(each):
                self._add(Kind.SEND_GRADIENT, stage, batch, each.producer)

    def weights(self, batch: int) -> None:
        """The second part of backward passes of which `backward` was the first."""
        for stage in reversed(self.own):
            self._add(Kind.WEIGHT_GRADIENT, stage, batch)

    def receive_gradients(self, stage: int, batch: int) -> None:
        """Wait for the gradients of what a stage has sent."""
        for peer in self._answering(stage):
            self._add(Kind.RECEIVE_GRADIENT, stage, batch, peer)

    def regress(self, batch: int, local: bool) -> None:
        """Show the synthesizers true gradients: those that are on this rank, or those that are sent to it."""
        for stage in self.own:
            if self.layout.learns(stage) and local != any(self._answering(stage)):
                self.receive_gradients(stage, batch)
                self._add(Kind.REGRESSION, stage, batch)

    def step(self, batch: int) -> None:
        """Update all stages."""
        for stage in self.own:
            self.step_of(stage, batch)

    def step_of(self, stage: int, batch: int) -> None:
        """Update one stage."""
        self._add(Kind.STEP, stage, batch)

    def _senders(self, stage: int) -> Iterator[int]:
        for each in self.layout.incoming.get(stage, ()):
            if not self.layout.is_local(each):
                yield each.producer

    def _answering(self, stage: int) -> Iterator[int]:
        for each in self.layout.outgoing.get(stage, ()):
            if each.carries and not self.layout.is_local(each):
                yield each.consumer

    def _add(self, kind: Kind, stage: int, batch: int, peer: int | None = None) -> None:
        self.actions.append(Action(kind, stage, batch, peer))
