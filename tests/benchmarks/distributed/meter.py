"""What the part of a net on this process costs by itself, and what messages between two processes do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dni_fx.distributed.wire import Wire
from dni_fx.schedules.costs import Handling, Network
from tests.benchmarks.distributed.nets import Task
from tests.benchmarks.distributed.way import adam

_SMALL, _LARGE = 2**10, 2**20
_SENT = 20
"""Messages of each size by which handling is told."""
_TRIED = 12
"""How often, for the least of them."""


class Meter:
    """Trains one part alone, in so many micro-batches a step, in a loop that has nothing but the part in it.

    Gradients of the micro-batches are added up and divided by their number, as schedules do.
    """

    def __init__(self, task: Task, micro: int) -> None:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self.task, self.micro, self.is_last = task, micro, rank == ranks - 1
        self.value, self.y = task.batch(task.size // micro)
        with torch.no_grad():
            for each in range(rank):
                self.value = task.part(each, ranks)(self.value)
        self.value.requires_grad_(self.value.is_floating_point() and rank > 0)
        self.part = task.part(rank, ranks)
        self.optimizer = adam(self.part.parameters())
        made = self.part(self.value)
        self.bytes = made.numel() * made.element_size()
        self.gradient = torch.randn_like(made) / len(made)
        self.rounds: list[list[float]] = []

    def row(self, steps: int) -> None:
        """Take so many steps, and keep the mean seconds of a forward and a backward pass and of the rest."""
        times = [self._step() for _ in range(steps)]
        self.rounds.append([statistics.fmean(each) for each in zip(*times, strict=True)])

    def _step(self) -> tuple[float, float, float]:
        forward = backward = 0.0
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        for _ in range(self.micro):
            value = self.value.detach().requires_grad_(self.value.requires_grad)
            before = time.perf_counter()
            made = self.part(value)
            out = self.task.loss(made, self.y) if self.is_last else made
            between = time.perf_counter()
            out.backward(None if self.is_last else self.gradient)
            forward, backward = forward + between - before, backward + time.perf_counter() - between
        if self.micro > 1:
            for each in self.part.parameters():
                each.grad.div_(self.micro) if each.grad is not None else None
        self.optimizer.step()
        rest = time.perf_counter() - begin - forward - backward
        return forward / self.micro, backward / self.micro, rest


@dataclass(frozen=True)
class Post:
    """How a block is sent to the other of two processes, and how one is taken from it."""

    send: Callable[[int, Tensor], None]
    take: Callable[[int, Tensor], None]


def posts(wire: Wire) -> dict[str, Post]:
    """That of our runtime, and that of torch's schedules."""
    return {
        "dni": Post(lambda to, block: wire.send(to, "block", block), lambda of, _: wire.take(of, "block")),
        "torch": Post(
            lambda to, block: dist.isend(block, to).wait(), lambda of, block: dist.irecv(block, of).wait()
        ),
    }


def handled(post: Post) -> list[list[float]]:
    """For small and for large messages: a round trip, and processor time of this process to send and to take.

    All are the least that was seen, since whatever else runs makes them more.
    Only the first two ranks have figures; all must call it.
    """
    rank = dist.get_rank()
    found: list[list[float]] = []
    for size in (_SMALL, _LARGE):
        block = torch.zeros(size // 4)
        dist.barrier()
        trip = _trip(post, rank, block)
        work = [min(_worked(post, rank, sender, block) for _ in range(_TRIED)) for sender in (0, 1)]
        found.append([trip, *(work if rank == 0 else work[::-1])])
    return found


def _worked(post: Post, rank: int, sender: int, block: Tensor) -> float:
    dist.barrier()
    begin = time.process_time()
    for _ in range(_SENT if rank < 2 else 0):
        post.send(1 - rank, block) if rank == sender else post.take(1 - rank, block)
    dist.barrier()
    return (time.process_time() - begin) / _SENT


def _trip(post: Post, rank: int, block: Tensor) -> float:
    times: list[float] = []
    for _ in range(_SENT * _TRIED if rank < 2 else 0):
        begin = time.perf_counter()
        for sender in (0, 1):
            post.send(1 - rank, block) if rank == sender else post.take(1 - rank, block)
        times.append(time.perf_counter() - begin)
    return min(times, default=0.0)


def network_of(small: list[float], large: list[float]) -> Network:
    """The network that has these round trips and this processor time, by two sizes of messages."""

    def line(low: float, high: float) -> Handling:
        byte = max((high - low) / (_LARGE - _SMALL), 0.0)
        return Handling(max(low - byte * _SMALL, 0.0), byte)

    way = line(small[0] / 2, large[0] / 2)
    send, take = line(small[1], large[1]), line(small[2], large[2])
    byte = way.byte - send.byte - take.byte
    return Network(
        bandwidth=1 / byte if byte > 0 else float("inf"),
        latency=max(way.message - send.message - take.message, 0.0),
        sending=send,
        receiving=take,
    )
