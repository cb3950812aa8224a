"""Messages between processes, on torch.distributed: nobody who sends waits for whoever receives."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from dni_fx.distributed.frames import AHEAD, Coming, Inlet, Part, framed
from dni_fx.errors import StageError, first_line

_BYE = "bye"
_BEAT = "beat"
_FAILED = "failed"
_BROKEN = "the connection to it is broken"
_BEATS = 4
"""How many signs of life are sent in the time after which silence counts as loss."""


class Wire:
    """Sends trees of tensors and plain values to other processes, and keeps what they send until it is taken.

    A message has a topic, and messages of one topic from one process come in the order in which they were
    sent. Two threads for each process receive, one of them the tensors of messages of which the other one has
    the text; another one waits until what was sent is through, since gloo tells it to nobody who does not
    wait; the last one sends signs of life. A process that ends, or of which nothing is heard for `patience`
    seconds, is lost, and every wait from then on says so.
    """

    def __init__(self, group: dist.ProcessGroup, patience: float) -> None:
        self.group = group
        self.patience = patience
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.others = tuple(rank for rank in range(self.size) if rank != self.rank)
        self._news = threading.Condition()
        self._inbox: defaultdict[tuple[int, str], deque[Any]] = defaultdict(deque)
        self._gone: dict[int, str] = {}
        self._still_there: set[int] = set()
        self._heard = dict.fromkeys(self.others, time.monotonic())
        self._sending = threading.Lock()
        self._sent: queue.SimpleQueue[tuple[int, dist.Work, Tensor] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._has_failed = False
        self._listeners: list[threading.Thread] = []
        for peer in self.others:
            coming = queue.SimpleQueue[Coming | str]()
            self._listeners += [
                self._thread(self._listen, peer, coming),
                self._thread(self._file, peer, coming),
            ]
        self._workers = [self._thread(self._beat), self._thread(self._see_off)]

    def send(self, to: int, topic: str, tree: object = None) -> None:
        """Send a tree to one process, and go on. Its tensors must not be written to any more.

        Raises:
            StageError: the process is lost, or there is something in it that cannot be sent.
        """
        parts = framed(topic, tree)
        with self._sending:
            for part in parts:
                self._put(to, part)

    def take(self, of: int, topic: str, watch: Callable[[], None] | None = None) -> Any:
        """The next message of a topic from one process; waits until it is there, and watches meanwhile.

        Raises:
            StageError: it will never be there, since a process is lost.
        """
        with self._news:
            while (of, topic) not in self._inbox:
                self._check(of)
                if watch is not None:
                    watch()
                self._news.wait(self.patience / _BEATS)
            waiting = self._inbox[of, topic]
            found = waiting.popleft()
            if not waiting:
                del self._inbox[of, topic]
            return found

    def there(self, of: int, topic: str) -> bool:
        """Whether a message of a topic has come from one process.

        Raises:
            StageError: a process is lost.
        """
        with self._news:
            if (of, topic) in self._inbox:
                return True
            self._check(of)
            return False

    def next(self, of: int, topic: str) -> Any:
        """The next message of a topic from one process, which stays there; None if none has come."""
        with self._news:
            waiting = self._inbox.get((of, topic))
            return waiting[0] if waiting else None

    def fail(self, why: str) -> None:
        """Tell the others that this process cannot go on, even if it does not end; the first time counts."""
        if self._has_failed:
            return
        self._has_failed = True
        for peer in self.others:
            if peer not in self._gone:
                self.send(peer, _FAILED, why)

    def close(self) -> None:
        """Tell the others that no message comes any more, and let what was sent get through."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._workers[0].join()
        for peer in self.others:
            # Two that have failed at once would otherwise wait for one another.
            hears = peer not in self._gone or peer in self._still_there
            for _ in range(AHEAD if hears else 0):  # so that nobody waits for more
                self.send(peer, _BYE)
        until = time.monotonic() + self.patience
        self._sent.put(None)
        for thread in [*self._workers, *self._listeners]:  # one that still runs would outlive what it runs in
            thread.join(max(until - time.monotonic(), 0))

    def _put(self, to: int, part: Part) -> None:
        try:
            work = dist.isend(part.bytes, group=self.group, group_dst=to, tag=part.tag)
        except RuntimeError:
            self._lose(to, _BROKEN)
            return
        assert work is not None
        self._sent.put((to, work, part.bytes))

    def _check(self, of: int) -> None:
        """Do nothing if everybody is there; the caller has the lock."""
        now = time.monotonic()
        for peer in self.others:
            if peer not in self._gone and now - self._heard[peer] > self.patience:
                self._gone[peer] = f"nothing was heard of it for {self.patience:g} seconds"
        lost = {peer: why for peer, why in self._gone.items() if why != _BYE}
        if of in self._gone and not lost:
            lost = {of: "it has ended"}
        if lost:
            told = "; ".join(f"rank {peer} is gone: {why.rstrip('.')}" for peer, why in sorted(lost.items()))
            self.fail(told)
            raise StageError(
                f"rank {self.rank} cannot go on without the others. {told}. The first error is in the output "
                "of the rank that went first."
            )

    def _lose(self, peer: int, why: str) -> None:
        with self._news:
            self._gone.setdefault(peer, why)
            self._news.notify_all()

    def _listen(self, peer: int, coming: queue.SimpleQueue[Coming | str]) -> None:
        """Take in what a process sends, and at last why there is no more of it."""
        try:
            inlet = Inlet(self.group, peer)
            while (message := inlet.message()).topic != _BYE:
                self._heard[peer] = time.monotonic()
                if message.topic != _BEAT:
                    coming.put(message)
            inlet.drain()
            coming.put(_BYE)
        except RuntimeError:
            coming.put(_BROKEN)
        except (ValueError, AttributeError, TypeError) as error:
            coming.put(first_line(error))

    def _file(self, peer: int, coming: queue.SimpleQueue[Coming | str]) -> None:
        """Put messages where they are looked for, when all of their tensors are there."""
        try:
            while not isinstance(message := coming.get(), str):
                for part in message.awaited:
                    part.wait()
                    self._heard[peer] = time.monotonic()
                tree = message.tree()
                if message.topic == _FAILED:
                    self._still_there.add(peer)
                    self._lose(peer, f"it has failed: {tree}")
                else:
                    with self._news:
                        self._inbox[peer, message.topic].append(tree)
                        self._news.notify_all()
            self._lose(peer, message)
        except RuntimeError:
            self._lose(peer, _BROKEN)
        except StageError as error:
            self._lose(peer, first_line(error))

    def _see_off(self) -> None:
        while (each := self._sent.get()) is not None:
            peer, work, _ = each
            try:
                work.wait()
            except RuntimeError:
                self._lose(peer, _BROKEN)

    def _beat(self) -> None:
        while not self._closed.wait(self.patience / _BEATS):
            for peer in self.others:
                if peer not in self._gone:
                    self.send(peer, _BEAT)

    def _thread(self, work: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, name="dni_fx wire", daemon=True)
        thread.start()
        return thread
