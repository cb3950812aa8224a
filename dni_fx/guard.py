"""Takes a boundary out of service whose synthesizer does harm."""

from __future__ import annotations

import torch
from torch import nn

from dni_fx.warning import warn

_MEMORY = 0.9
"""How much of the smoothed cosine stays at each new one: single batches say little."""
_ENOUGH = 0.2
"""A better cosine counts as this one, or a guess that has long been good would be missed long after."""
_HASTE = 10
"""For how many steps one counts at the worst."""
_AWAY = 0.1
"""How far below 0 the smoothed cosine is at the worst: chance does not explain more."""


class Guard(nn.Module):
    """Counts steps in a row in which the guesses were of no use, and locks the boundary at `patience`.

    A step counts if the smoothed cosine of synthetic and true gradient is 0 or below, up to ten times the
    lower it is, if one of both is not finite, and ten times if the guess is far too large. A true
    gradient that is 0 says nothing. A locked boundary sends true gradients, or zeros where these come too
    late; its synthesizer goes on learning, and `release` puts it back to work. `place` is how the user comes
    to the boundary, if it is none of a model.
    """

    def __init__(self, patience: int, instead: str = "true gradients") -> None:
        super().__init__()
        self.patience = patience
        self.instead = instead
        self.place = ""
        # Averages of models take no bool.
        self.register_buffer("state", torch.zeros(3))
        self._known: tuple[int, float, bool] | None = None

    @property
    def locked(self) -> bool:
        """Whether the boundary sends true gradients, because its synthesizer did harm."""
        return self._state()[2]

    @property
    def doubts(self) -> bool:
        """Whether the last guess that it was told of was of no use, and the boundary is still cut."""
        count, _, locked = self._state()
        return count > 0 and not locked

    def release(self) -> None:
        """Trust the synthesizer again, and count from zero."""
        self._keep(0, 0.0, False)

    def note(self, name: str, cosine: float | None, is_large: bool = False) -> None:
        """Take in the cosine of one step, None if it cannot be compared; a warning tells of a lock.

        `is_large` says that the guess was larger than true gradients ever are.
        """
        count, smooth, locked = self._state()
        if cosine is not None:
            smooth = _MEMORY * smooth + (1 - _MEMORY) * min(cosine, _ENOUGH)
        is_broken = cosine is None or is_large
        count = count + self._worth(smooth, is_large) if is_broken or smooth <= 0 else 0
        if self.patience and count >= self.patience and not locked:
            locked = True
            away = f"pointed away from the true ones, step after step, by a mean cosine of {smooth:.3f}"
            why = "were not finite, or far too large, step after step" if is_broken else away
            place = self.place or f"dni_fx.boundaries(model)[{name!r}]"
            warn(
                f"the synthetic gradients at {name} {why}. The boundary sends {self.instead} "
                f"from now on; {place}.guard.release() trusts it again, and a cut with the interface "
                "dni:guard=0 trusts it in any case."
            )
        self._keep(count, smooth, locked)

    def _worth(self, smooth: float, is_large: bool) -> int:
        """For how many steps a bad one counts."""
        return 1 + round((_HASTE - 1) * (1.0 if is_large else min(max(-smooth, 0.0) / _AWAY, 1.0)))

    def _state(self) -> tuple[int, float, bool]:
        if self._known is None:
            count, smooth, locked = self.get_buffer("state").tolist()
            self._known = int(count), float(smooth), bool(locked)
        return self._known

    def _keep(self, count: int, smooth: float, locked: bool) -> None:
        kept = torch.tensor([count, smooth, locked])
        self.get_buffer("state").copy_(kept)
        # As it is saved, so that a run that is resumed goes on alike.
        self._known = count, kept.tolist()[1], locked

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None
