"""How processes of one run are to train."""

from __future__ import annotations

from typing import Protocol


class Manners(Protocol):
    """What all processes of a run have been told: see `Distributed`."""

    @property
    def name(self) -> str:
        """What the runtime is called."""
        ...

    @property
    def lag(self) -> int:
        """How many steps a process may be ahead of true gradients."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether true gradients count just so many steps later."""
        ...

    @property
    def replicas(self) -> int:
        """How many processes have each stage, and share the samples of a batch."""
        ...

    @property
    def shards(self) -> bool:
        """Whether each replica keeps only a part of the weights of its stages."""
        ...

    @property
    def seed(self) -> int:
        """What random numbers of stages come from."""
        ...
