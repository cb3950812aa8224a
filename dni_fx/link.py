"""A message from one model to another, which ticks more slowly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from dni_fx.dni import DNI
from dni_fx.errors import StageError
from dni_fx.interface import INTERFACES, Interface
from dni_fx.step import Step, Synthesis
from dni_fx.synthesizers import SYNTHESIZERS, Synthesizer
from passes import BoundarySpec, ValueSpec, parse
from passes.anchors import Anchor


class Link(nn.Module):
    """Joins two models by a message, so that the sender need not wait for what the receiver makes of it.

    The receiver ticks once for every `rate` messages. Until then the sender trains on a guess of a message's
    gradient, and the synthesizer learns when the receiver runs backward:

        link = dni_fx.Link(torch.zeros(32, 16), rate=4)
        outputs, message, state = sender(x, state)
        (loss(outputs, y) + link(message)).backward()
        if link.is_full:
            loss(receiver(link.take()), z).backward()

    What is known beside a message, such as labels of what the sender has seen, is its `context`: integers
    below `classes`, or floats. `example` is a message `(batch, *features)`; its values do not matter. A
    message that nobody takes in time is an error; `clear` begins anew.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 3.3 (networks at different rates).

    Raises:
        StageError: the rate is below 1.
        SynthesizerError: the synthesizer cannot guess for such a message.
        UnknownNameError, SpecError: a text form names nothing, or cannot be read.
    """

    def __init__(
        self,
        example: Tensor,
        rate: int = 1,
        *,
        synthesizer: str | Synthesizer = "linear",
        interface: str | Interface = "dni",
        classes: int = 0,
    ) -> None:
        super().__init__()
        if rate < 1:
            raise StageError(f"rate is 1 or more, not {rate}: the receiver ticks once for so many messages.")
        chosen = parse(synthesizer, SYNTHESIZERS) if isinstance(synthesizer, str) else synthesizer
        how = parse(interface, INTERFACES) if isinstance(interface, str) else interface
        shape = tuple(example.shape)
        value = ValueSpec(Anchor("message"), shape, ("b", *shape[1:]), example.dtype, 0, len(shape) - 1)
        spec = BoundarySpec("message", (value,), producer=0, consumers=(1,), rate=rate, classes=classes)
        with torch.random.fork_rng(devices=[]):
            self.dni = DNI(spec, chosen, how, Step()).to(example.device)
        self.dni.guard.place = "link.dni"
        self.rate = rate
        self._waiting: list[tuple[Tensor, Tensor | None]] = []

    @property
    def is_full(self) -> bool:
        """Whether it is time for the receiver."""
        return len(self._waiting) == self.rate

    @override
    def forward(self, message: Tensor, context: Tensor | None = None) -> Tensor:
        """Send a message `(batch, *features)`; returns 0, through which the guess of its gradient comes back.

        Add it to the sender's loss. In eval mode, and without gradients, nothing is guessed.

        Raises:
            StageError: `rate` messages wait already.
        """
        if self.is_full:
            raise StageError(f"{self.rate} messages wait already: the receiver is to take() them first.")
        self._waiting.append((message.detach(), context))
        if not (self.training and torch.is_grad_enabled() and message.requires_grad):
            return message.new_zeros(())
        self._begin(message, context)
        _, (up,) = self.dni.guess_up((message,), learns=False)
        if up is None or self.dni.mix == 1:
            return message.new_zeros(())
        return _Pull.apply(message, up)

    def take(self) -> Tensor:
        """The messages that wait, `(batch, rate, *features)`; the receiver's backward pass teaches.

        Raises:
            StageError: fewer than `rate` wait.
        """
        if not self.is_full:
            raise StageError(f"{len(self._waiting)} messages wait, and the receiver ticks for {self.rate}.")
        waiting, self._waiting = self._waiting, []
        together = torch.stack([message for message, _ in waiting], 1)
        if not (self.training and torch.is_grad_enabled()):
            return together
        made: list[Synthesis] = []
        for message, context in waiting:
            self._begin(message, context)
            made.append(self.dni.synthesize((message,)))
        return _Heard.apply(self.dni, made, together.requires_grad_())

    def clear(self) -> None:
        """Let go of the messages that wait."""
        self._waiting = []

    @override
    def get_extra_state(self) -> list[tuple[Tensor, Tensor | None]]:
        """The messages that wait; they are in the state dict."""
        return list(self._waiting)

    @override
    def set_extra_state(self, state: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Go back to the messages that waited."""
        self._waiting = list(state)

    def _begin(self, message: Tensor, context: Tensor | None) -> None:
        """The synthesizer takes what it has learned, and hears of a new batch."""
        now: Step = vars(self.dni)["now"]
        self.dni.step()
        now.number += 1
        now.context = context
        now.batch = max(message.shape[0], 1)


class _Pull(torch.autograd.Function):
    """Zero, whose gradient at a message is what was guessed for it."""

    @staticmethod
    def forward(message: Tensor, up: Tensor) -> Tensor:
        return message.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.up = inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.up, None


class _Heard(torch.autograd.Function):
    """Identity; the gradient of each message ends here, and teaches."""

    @staticmethod
    def forward(dni: DNI, made: list[Synthesis], together: Tensor) -> Tensor:
        return together.view_as(together)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.dni, ctx.made, _ = inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, true: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        for synthesis, each in zip(ctx.made, true.unbind(1), strict=True):
            ctx.dni.regress(synthesis, (each,))
        return None, None, None
