"""Several processes of which the first says what all do, and hears what all have found."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from typing_extensions import override

from dni_fx.decoupled import Decoupled
from dni_fx.distributed.post import Post
from dni_fx.errors import StageError, reason_of
from dni_fx.runtimes.findings import Findings, Reports
from dni_fx.runtimes.recipe import Recipe
from dni_fx.runtimes.staged import Staged


class Led(Staged):
    """A worker that is led by that of the first process, or leads the others.

    Figures of a step are told no later than `most` steps after it.
    """

    def __init__(self, cut: Decoupled, recipe: Recipe, world: Post, most: int) -> None:
        self.world = world
        self.reports = Reports(world)
        self._most = most
        self._is_leading = False
        super().__init__(cut, recipe)

    @property
    @override
    def leads(self) -> bool:
        return self.world.rank == 0

    @property
    @override
    def is_one_of_several(self) -> bool:
        return True

    @property
    @override
    def is_leading(self) -> bool:
        return self._is_leading

    @override
    def prepare(self) -> None:
        self.lead("begin")
        super().prepare()
        self.reports.begin()

    @override
    def ask(self, signal: int) -> None:
        self.world.send(0, "asked", signal)

    @override
    def asked(self) -> int | None:
        there = [other for other in self.world.others if self.world.there(other, "asked")]
        return self.world.take(there[0], "asked") if there else None

    @override
    @contextmanager
    def leading(self) -> Generator[None]:
        self._is_leading = True
        try:
            yield
        except BaseException as error:
            self.lead("failed", reason_of(error))
            raise
        finally:
            self._is_leading = False

    @override
    def fail(self, error: BaseException) -> None:
        self.world.wire.fail(reason_of(error))

    @override
    def lead(self, order: str, details: object = None) -> None:
        if self._is_leading:
            meant_for = self.meant(order, details)
            for other in self.world.others:
                self.world.send(other, "orders", (order, meant_for(other)))

    def meant(self, order: str, details: Any) -> Callable[[int], Any]:
        """What of an order each other process has to hear."""
        return lambda other: details

    @override
    def orders(self) -> Iterator[tuple[str, Any]]:
        while True:
            order, details = self.world.take(0, "orders")
            if order == "failed":
                raise StageError(f"rank 0 has ended the run: {details}")
            yield order, details
            if order == "end":
                return

    @override
    def tell(self, figures: Findings) -> Iterator[Findings]:
        return self.reports.tell(figures, self._most)

    @override
    def rest(self) -> Iterator[Findings]:
        return self.reports.rest()
