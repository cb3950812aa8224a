"""What is on its way between the ranks of a pipeline."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import torch.distributed as dist
from torch import Tensor, nn

from dni_fx.errors import StageError, first_line
from dni_fx.step import Synthesis


@dataclass
class Sent:
    """Tensors on their way between two ranks, which must not be written to before they are there."""

    ops: list[dist.P2POp]
    works: list[dist.Work]

    def wait(self) -> None:
        """Wait until they are there.

        Raises:
            StageError: they never will be.
        """
        with _missing():
            for work in self.works:
                work.wait()


@dataclass
class Awaited:
    """The true gradients of one micro-batch, which have not been taken in yet.

    `values` are those of the stage's outputs that carry a gradient, while they are needed, `places` where
    these stand among the outputs and `true` where the gradient of each arrives. `sent` are the outputs.
    """

    number: int
    values: list[Tensor]
    places: list[int]
    true: list[Tensor]
    sent: Sent
    arrival: Future[None]
    synthesis: Synthesis | None = None


class Waiter:
    """Waits in a thread, since gloo tells nobody that something has come who does not wait for it.

    A process can end while it waits: else the others would never hear that it has.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Sent, Future[None]] | None] = SimpleQueue()
        weakref.finalize(self, self._queue.put, None)
        self._thread = threading.Thread(
            target=_wait_for_all, args=(self._queue,), name="dni_fx truths", daemon=True
        )

    def wait_for(self, sent: Sent) -> Future[None]:
        """What is done when this has come."""
        if not self._thread.ident:
            self._thread.start()
        arrival: Future[None] = Future()
        self._queue.put((sent, arrival))
        return arrival


def _wait_for_all(waiting: SimpleQueue[tuple[Sent, Future[None]] | None]) -> None:
    while (each := waiting.get()) is not None:
        sent, arrival = each
        try:
            sent.wait()
        except StageError as error:
            arrival.set_exception(error)
        else:
            arrival.set_result(None)


def posted(ops: list[dist.P2POp]) -> list[dist.Work]:
    """Begin to send or receive; nobody waits.

    Raises:
        StageError: the other rank is gone.
    """
    with _missing():
        return dist.batch_isend_irecv(ops) if ops else []


@contextmanager
def _missing() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StageError(
            f"a rank with a stage beside this one is gone: {first_line(error)} The first error is in the "
            "output of the rank that went first."
        ) from error


def memory_of(module: nn.Module) -> set[int]:
    """Where the parameters and buffers of a module lie."""
    state = (*module.parameters(), *module.buffers())
    return {place_of(each) for each in state if type(each) in {Tensor, nn.Parameter}}


def place_of(tensor: Tensor) -> int:
    """The same for all tensors that lie in one memory."""
    return tensor.untyped_storage().data_ptr()
