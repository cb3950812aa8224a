"""Takes a boundary out of service whose synthesizer does harm."""

from __future__ import annotations

import warnings

import torch
from torch import nn

_MEMORY = 0.9
"""How much of the smoothed cosine stays at each new one: single batches say little."""
_HASTE = 10
"""For how many steps one counts in which the guess was the opposite of the truth."""


class Guard(nn.Module):
    """Counts steps in a row in which the guesses were of no use, and locks the boundary at `patience`.

    A step counts if the smoothed cosine of synthetic and true gradient is 0 or below, up to ten times the
    nearer it is to -1, or if one of both is not finite, or the guess a hundred times too large. A true
    gradient that is 0 says nothing. A locked boundary sends true gradients; its synthesizer goes on
    learning, and `release` puts it back to work.
    """

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        # Averages of models take no bool.
        self.register_buffer("state", torch.zeros(3))
        self._known: tuple[int, float, bool] | None = None

    @property
    def locked(self) -> bool:
        """Whether the boundary sends true gradients, because its synthesizer did harm."""
        return self._state()[2]

    def release(self) -> None:
        """Trust the synthesizer again, and count from zero."""
        self._keep(0, 0.0, False)

    def note(self, name: str, cosine: float | None) -> None:
        """Take in the cosine of one step, None if it cannot be compared; a warning tells of a lock."""
        count, smooth, locked = self._state()
        if cosine is not None:
            smooth = _MEMORY * smooth + (1 - _MEMORY) * cosine
        is_bad = cosine is None or smooth <= 0
        count = count + 1 + int((_HASTE - 1) * max(-smooth, 0.0)) if is_bad else 0
        if self.patience and count >= self.patience and not locked:
            locked = True
            why = "were not finite, or far too large" if cosine is None else "pointed away from the true ones"
            warnings.warn(
                f"the synthetic gradients at {name} {why}, step after step. The boundary sends true "
                f"gradients from now on; dni_fx.boundaries(model)[{name!r}].guard.release() trusts it again.",
                stacklevel=2,
            )
        self._keep(count, smooth, locked)

    def _state(self) -> tuple[int, float, bool]:
        if self._known is None:
            count, smooth, locked = self.get_buffer("state").tolist()
            self._known = int(count), float(smooth), bool(locked)
        return self._known

    def _keep(self, count: int, smooth: float, locked: bool) -> None:
        kept = torch.tensor([count, smooth, locked])
        self.get_buffer("state").copy_(kept)
        # As it is saved, so that a run that is resumed goes on alike.
        self._known = count, float(kept[1]), locked

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None
