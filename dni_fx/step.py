"""What interfaces know of the step that is under way, and what one of them has guessed in it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Step:
    """What every DNI of one model must know of the step that is under way.

    `context` is what the synthesizers may see beside the value. `batch` is the batch size of the input,
    `gradient_scale` what the user's loop multiplies its loss by. `exact` sends true gradients up
    everywhere. With `record`, DNIs keep how well they guessed when they are compared with the truth, and
    with `compare` they are in every step. `clock` counts the steps of compiled code.

    `number` counts steps; with `takes_turns`, boundaries that have a window are cut in turn. `tells_loss`
    says that whoever runs the step tells the loss before its backward pass. At boundaries that are
    `late`, true gradients may arrive when later batches are under way.
    """

    context: Tensor | None = None
    batch: int = 1
    gradient_scale: float = 1.0
    exact: bool = False
    record: bool = False
    compare: bool = False
    number: int = 0
    takes_turns: bool = True
    tells_loss: bool = False
    late: frozenset[str] = frozenset()
    clock: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.long, device="cpu"), repr=False)

    @contextmanager
    def coming_late(self, boundaries: frozenset[str]) -> Generator[None]:
        """Inside, the truth at these boundaries may come when later batches are under way."""
        self.late = boundaries
        try:
            yield
        finally:
            self.late = frozenset()

    @contextmanager
    def telling_loss(self) -> Generator[None]:
        """Inside, learners may count on being told the loss."""
        self.tells_loss = True
        try:
            yield
        finally:
            self.tells_loss = False


@dataclass
class Synthesis:
    """One guess: gradients, the units that they are in, and what they were made for.

    Gradients are per sample; `natural` ones are of the mean over the batch, as they go up.
    `learned` holds what each parameter of the learner is to learn from this guess whatever the truth is,
    and `loss` what the learner thinks the loss is. One that is not `taught` is never compared with the truth,
    and nothing is learned from one that does not `learn`.
    `values` are copies of what it was made from, where the truth is to wait for later batches.
    """

    gradients: tuple[Tensor, ...]
    units: Tensor
    natural: bool
    objective: Tensor | None
    learned: Sequence[Tensor | None] | None
    loss: Tensor | None
    context: Tensor | None
    batch: int
    gradient_scale: float
    record: bool
    mix: float
    taught: bool
    learns: bool
    values: tuple[Tensor, ...] = ()
    fired: bool = field(default=False)

    def be_sent(self) -> None:
        """Forget the guess, which waits for no truth; from one that is not finite nothing is learned."""
        lengths = [torch.linalg.vector_norm(guess, dtype=wide(guess)) for guess in self.gradients]
        if not all(bool(length.isfinite()) for length in lengths):
            self.objective, self.learned = None, None
        self.gradients = ()

    def let_go(self) -> None:
        """Forget the guess itself, with all that hangs on it: nothing more is to be learned."""
        self.gradients, self.objective, self.learned = (), None, None

    @property
    def size(self) -> int:
        """What makes gradients of samples, as everything is that is compared, of the guess."""
        return self.batch if self.natural else 1

    @property
    def true_size(self) -> float:
        """What makes gradients of samples of the true gradient."""
        return self.batch / self.gradient_scale


def wide(guess: Tensor) -> torch.dtype:
    """At least float32: a regression in half precision would round small errors away."""
    return _WIDE.get(guess.dtype) or torch.promote_types(guess.dtype, torch.float32)


_WIDE = {dtype: dtype for dtype in (torch.float32, torch.float64)}
"""What is wide as it is: it is asked for at each guess."""
