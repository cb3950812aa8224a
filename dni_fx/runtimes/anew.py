"""New graphs of a model, which all of several processes make in the same steps."""

from __future__ import annotations

from dni_fx.distributed.post import Post
from dni_fx.errors import StageError

_TOPIC = "anew"


class Anew:
    """Finds out that one process makes a new graph in a step for which another one has gone on with its own.

    The first then waits for what the other has of the model, and the other for values of the first, both for
    ever. So whoever waits for anything looks whether that has happened.
    """

    def __init__(self, world: Post) -> None:
        self.world = world
        self._last = -1
        world.watch = self.check

    def settle(self, step: int) -> None:
        """Say that this process has its graph for a step."""
        self._last = step

    def meet(self, step: int) -> None:
        """Wait until all processes make a new graph in this step.

        Raises:
            StageError: some make none, or a process is lost.
        """
        self.world.send_all(_TOPIC, step)
        for other in self.world.others:
            if self.world.take(other, _TOPIC) != step:
                self._refuse(other)

    def check(self) -> None:
        """Do nothing if no other process has made a new graph in a step in which this one made none.

        Raises:
            StageError: one has.
        """
        for other in self.world.others:
            step = self.world.next(other, _TOPIC)
            if step is not None and step <= self._last:
                self._refuse(other)

    def _refuse(self, other: int) -> None:
        told = (
            f"rank {other} makes a new graph of the model, and rank {self.world.rank} goes on with the one "
            "that it has: the model has been changed in one of them alone. Callbacks are called in the first "
            "process. Freeze, replace or hook layers between two calls of fit, in all processes."
        )
        self.world.wire.fail(told)
        raise StageError(told)
