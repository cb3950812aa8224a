"""The random generators that code commonly draws from: torch's, Python's and numpy's."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch


@contextmanager
def kept_random_state() -> Generator[None]:
    """Whatever draws inside leaves the random state as it was."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@dataclass(frozen=True)
class Streams:
    """A stream of torch's random numbers for each stage in one step, whoever runs it, in whatever order."""

    seed: int | str
    step: int

    @contextmanager
    def of(self, stage: int) -> Generator[None]:
        """What draws inside draws from this stage's stream; outside, nothing has been drawn."""
        cpu = torch.get_rng_state()
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        torch.manual_seed(random.Random(f"{self.seed}/{self.step}/{stage}").getrandbits(63))
        try:
            yield
        finally:
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)


@dataclass(frozen=True)
class _NoStreams(Streams):
    @contextmanager
    def of(self, stage: int) -> Generator[None]:
        yield


NO_STREAMS = _NoStreams(0, 0)
"""All stages draw from what the process draws from, one after another."""


def random_state() -> tuple[Any, ...]:
    """The states of all generators that code commonly draws from."""
    numpy = cast("tuple[Any, ...]", np.random.get_state())
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        numpy[1].tobytes(),
        numpy[2:],
        tuple(state.numpy().tobytes() for state in cuda),
    )


def set_random_state(state: tuple[Any, ...]) -> None:
    """Go back to a state that `random_state` returned, perhaps on a machine with more GPUs."""
    torch.set_rng_state(torch.frombuffer(bytearray(state[0]), dtype=torch.uint8))
    random.setstate(state[1])
    np.random.set_state(("MT19937", np.frombuffer(state[2], dtype=np.uint32), *state[3]))
    for device, each in enumerate(state[4][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(each), dtype=torch.uint8), device)
