"""What the processes of one run send to one another: apart from other runs, and on the device of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from dni_fx.distributed.wire import Wire
from dni_fx.errors import StageError

_T = TypeVar("_T")


class Post:
    """The wire among some processes for one run; what arrives is put on the device of this one.

    Processes have numbers of their own in it, in the order of `members`; it is among all if none are named.
    `watch`, if there is one, is called while anything is waited for, and raises what ends the waiting.
    """

    def __init__(
        self, wire: Wire, run: int, device: torch.device, members: Sequence[int] | None = None
    ) -> None:
        self.wire = wire
        self.run = run
        self.device = device
        self.members = tuple(range(wire.size)) if members is None else tuple(members)
        self.rank = self.members.index(wire.rank)
        self.watch: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        """How many processes there are."""
        return len(self.members)

    @property
    def others(self) -> tuple[int, ...]:
        """The numbers of all others."""
        return tuple(rank for rank in range(self.size) if rank != self.rank)

    def among(self, members: Sequence[int]) -> Post:
        """The same wire among these processes."""
        other = Post(self.wire, self.run, self.device, members)
        other.watch = self.watch
        return other

    def send(self, to: int, topic: str, tree: object = None) -> None:
        """Send, and go on; its tensors must not be written to any more."""
        self.wire.send(self.members[to], f"{self.run}/{topic}", tree)

    def send_all(self, topic: str, tree: object = None) -> None:
        """Send to all others."""
        for other in self.others:
            self.send(other, topic, tree)

    def take(self, of: int, topic: str) -> Any:
        """The next message of a topic; waits for it.

        Raises:
            StageError: a process is lost.
        """
        tree = self.wire.take(self.members[of], f"{self.run}/{topic}", self.watch)
        if self.device.type == "cpu":
            return tree
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), tree)

    def there(self, of: int, topic: str) -> bool:
        """Whether a message of a topic has come.

        Raises:
            StageError: a process is lost.
        """
        return self.wire.there(self.members[of], f"{self.run}/{topic}")

    def next(self, of: int, topic: str) -> Any:
        """The next message of a topic, which stays where it is; None if none has come."""
        return self.wire.next(self.members[of], f"{self.run}/{topic}")

    def exchanged(self, topic: str, mine: _T) -> Iterator[_T]:
        """What each process has, in their order; all tell all, and may write to it when they have told it."""
        self.send_all(topic, copied(mine))
        for rank in range(self.size):
            yield mine if rank == self.rank else self.take(rank, topic)

    def collected(self, topic: str, mine: _T) -> Iterator[_T]:
        """On the first process, what each has, asked for one after another; others have nothing.

        They go on when the first one has theirs, or if it stops asking.
        """
        if self.rank:
            if self.take(0, f"go {topic}"):
                self.send(0, topic, mine)
                self.take(0, f"got {topic}")  # from now on it may be written to
            return
        waiting = list(self.others)
        try:
            yield mine
            while waiting:
                other = waiting.pop(0)
                self.send(other, f"go {topic}", True)
                part = self.take(other, topic)
                self.send(other, f"got {topic}")
                yield part
        finally:
            for other in waiting:
                self.send(other, f"go {topic}", False)

    def agree(self, topic: str, facts: Mapping[str, Any]) -> None:
        """Do nothing if all processes have the same facts.

        Raises:
            StageError: some have others; says which, and is raised by all.
        """
        self.send_all(topic, dict(facts))
        told = {other: self.take(other, topic) for other in self.others} | {self.rank: dict(facts)}
        apart = [name for name in told[0] if any(each.get(name) != told[0][name] for each in told.values())]
        if apart:
            lines = [
                f"{name}: " + ", ".join(f"{told[rank].get(name)!r} on rank {rank}" for rank in sorted(told))
                for name in apart
            ]
            raise StageError("the processes do not train the same model in the same way. " + "; ".join(lines))


def copied(tree: _T, known: dict[Tensor, Tensor] | None = None) -> _T:
    """The same tree with tensors of its own, to be sent while the old ones are written to.

    What is there twice is one tensor still, and what is `known` the copy that there is.
    """
    copies: dict[Tensor, Tensor] = {} if known is None else known

    def copy(tensor: Tensor) -> Tensor:
        if tensor not in copies:
            copies[tensor] = tensor.detach().clone()
        return copies[tensor]

    return pytree.tree_map_only(Tensor, copy, tree)
