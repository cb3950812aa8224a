"""How long this process waits for each other one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch.distributed as dist
from torch.distributed.pipelining import schedules

from dni_fx.distributed.wire import Wire


class Watch:
    """Seconds of waiting since the last `reset`, by the rank that is waited for."""

    def __init__(self) -> None:
        self.seconds: defaultdict[int, float] = defaultdict(float)
        self._peers: dict[dist.Work, int] = {}

    def reset(self) -> None:
        """Forget what was."""
        self.seconds.clear()

    @contextmanager
    def at(self, wire: Wire) -> Generator[None]:
        """Look at what is taken from a wire, and at what schedules of torch wait for.

        They wait for what they send as well, which gloo takes along when the other side receives.
        """
        take, post, wait = wire.take, schedules._batch_p2p, schedules._wait_batch_p2p

        def taken(of: int, topic: str, watch: Callable[[], None] | None = None) -> Any:
            with self._timed(of):
                return take(of, topic, watch)

        def posted(ops: list[dist.P2POp], desc: str | None = None) -> list[dist.Work]:
            works = post(ops, desc)
            both = zip(works, ops, strict=True)  # gloo has one work for each
            self._peers |= {work: op.peer for work, op in both}
            return works

        def waited(works: Sequence[dist.Work]) -> None:
            for work in works:
                if (peer := self._peers.pop(work, None)) is None:
                    wait([work])
                else:
                    with self._timed(peer):
                        wait([work])

        with (
            patch.object(wire, "take", taken),
            patch.object(schedules, "_batch_p2p", posted),
            patch.object(schedules, "_wait_batch_p2p", waited),
        ):
            yield

    @contextmanager
    def _timed(self, peer: int) -> Generator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[peer] += time.perf_counter() - begin
