"""Runs that go on from a checkpoint: with what they began with, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from dni_fx.cli.arrays import Arrays, Samples
from dni_fx.cli.data import Data
from dni_fx.cli.images import Images
from dni_fx.errors import DniError
from dni_fx.training.callbacks import Told
from dni_fx.training.reports import Epoch
from dni_fx.warning import warn
from passes.words import counted

if TYPE_CHECKING:
    from dni_fx.training.trainer import Trainer

_SEED = "--seed"
_LOOKED_AT = 64
"""Samples at the beginning and at the end that tell data from other data."""


class Watch(Told):
    """Tells of epochs, and keeps in the checkpoint what the run was asked: `facts`, text by option.

    `before` is how many epochs the run had when it began or went on.
    """

    def __init__(
        self, observe: Callable[[int, Epoch], None], checkpoint: Path | None, facts: Mapping[str, str]
    ) -> None:
        super().__init__(observe)
        self.place = str(checkpoint or "the checkpoint")  # of several processes, one knows where it is
        self.facts = dict(facts)
        self.before = 0

    @override
    def begin(self, trainer: Trainer, epochs: int, batches: int | None) -> None:
        self.before = len(trainer.epochs)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"facts": dict(self.facts)}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what the run began with; the order that its seed decided is in the checkpoint.

        Raises:
            DniError: this is to be another run; lists what is other.
        """
        kept: Mapping[str, str] = state.get("facts", {})  # none from a run that was started in Python
        other = {name: (kept[name], now) for name, now in self.facts.items() if kept.get(name, now) != now}
        if (seed := other.pop(_SEED, None)) is not None:
            self.facts[_SEED] = seed[0]
            warn(
                f"{_SEED} {seed[1]} does nothing: {self.place} goes on in the order that "
                f"{_SEED} {seed[0]} has begun."
            )
        if other:
            apart = "; ".join(f"{name} was {then}, and is {now}" for name, (then, now) in other.items())
            raise DniError(
                f"{self.place} is of another run: {apart}. Go on with what it began with. To train its "
                "weights in another way, resume it as it was with `-o trained.pt2`, and train trained.pt2."
            )


def described(data: Data, text: str) -> str:
    """What tells the training data from others: how many there are, and what can be seen without effort."""
    batches = data.train
    if isinstance(batches, Arrays):
        seen = hashlib.blake2b(digest_size=6)
        for samples in (batches.x, batches.y):
            seen.update(repr(_seen(samples)).encode())
        return f"{counted(len(batches.x), 'sample')} (digest {seen.hexdigest()})"
    if isinstance(batches, DataLoader):
        return f"{text}{_count(batches.dataset, 'sample')}"
    return f"{text}{_count(batches, 'batch')}"


def _seen(samples: Samples) -> object:
    if isinstance(samples, Images):
        return [path.name for path in samples.files], samples.shape
    assert isinstance(samples, Tensor)
    few = torch.cat([samples[:_LOOKED_AT], samples[-_LOOKED_AT:]])
    return tuple(samples.shape), str(samples.dtype), few.cpu().contiguous().view(-1).tolist()


def _count(things: object, noun: str) -> str:
    try:
        return f" of {counted(len(things), noun)}" if isinstance(things, Sized) else ""
    except TypeError:  # of a stream
        return ""
