"""Work that is done at once, or by a thread beside while the caller goes on."""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from typing_extensions import override


class Aside(abc.ABC):
    """Does work in the order in which it comes."""

    @abc.abstractmethod
    def do(self, work: Callable[[], object]) -> None:
        """Do this, now or soon."""

    @abc.abstractmethod
    def join(self) -> None:
        """Wait until everything is done.

        Raises:
            Exception: what the first work that failed has raised; what came after it was not done.
        """

    @abc.abstractmethod
    def drop(self) -> None:
        """Wait for what is being done; what has not begun is left undone, and what failed is forgotten."""


class AtOnce(Aside):
    """Does it before the caller goes on."""

    @override
    def do(self, work: Callable[[], object]) -> None:
        work()

    @override
    def join(self) -> None:
        pass

    @override
    def drop(self) -> None:
        pass


class Beside(Aside):
    """Does it in one thread of its own, so that the order is the same, and with it every sum."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "dni_fx")
        self._waiting: list[Future[object]] = []

    @override
    def do(self, work: Callable[[], object]) -> None:
        before = self._waiting[-1] if self._waiting else None

        def then() -> object:
            # What follows on something that failed would compute with half of it.
            return work() if before is None or before.exception() is None else before.result()

        self._waiting.append(self._pool.submit(then))

    @override
    def join(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.result()

    @override
    def drop(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.cancel()
        for each in waiting:
            if not each.cancelled():
                each.exception()
