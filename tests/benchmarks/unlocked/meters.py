"""Meters of memory, and a process of its own for whatever is measured."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.peak import peak, reset_peak
from tests.live_bytes import LiveBytes

_T = TypeVar("_T")


class Timeline(LiveBytes):
    """Keeps besides when each tensor's memory was taken, by which operator, and when it was free again."""

    def __init__(self, *there: Any) -> None:
        self.clock = 0
        self.operator = ""
        self.born: dict[StorageWeakRef, tuple[int, int, str]] = {}
        self.died: dict[StorageWeakRef, int] = {}
        super().__init__(*there)
        self.start = dict(self.live)

    @property
    def most(self) -> int:
        """The most bytes beyond those that were there at the start."""
        return self.peak - sum(self.start.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operator = str(func)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _see(self, made: Any) -> None:
        before = set(self.live)
        super()._see(made)
        self.clock += 1
        for ref in self.live.keys() - before:
            self.born[ref] = self.clock, self.live[ref], self.operator
        self.died |= dict.fromkeys(before - self.live.keys(), self.clock)

    def without(self, left_out: Iterable[StorageWeakRef]) -> int:
        """The most bytes beyond those at the start and these."""
        changes: Counter[int] = Counter()
        for ref in self.born.keys() - self.start.keys() - set(left_out):
            at, size, _ = self.born[ref]
            changes[at] += size
            if ref in self.died:
                changes[self.died[ref]] -= size
        now = most = 0
        for at in sorted(changes):
            now += changes[at]
            most = max(most, now)
        return most

    def at_peak(self) -> list[tuple[str, int, int]]:
        """What was there when most was: operator, bytes of one tensor, how many; the most bytes first."""
        now, peak, when = 0, 0, 0
        sizes = Counter({at: 0 for at in range(self.clock + 1)})
        for ref, (at, size, _) in self.born.items():
            sizes[at] += size
            sizes[self.died.get(ref, self.clock + 1)] -= size
        for at in sorted(sizes):
            now += sizes[at]
            if now > peak:
                peak, when = now, at
        there = (
            (operator, size)
            for ref, (at, size, operator) in self.born.items()
            if ref not in self.start and at <= when < self.died.get(ref, self.clock + 1)
        )
        found = [(operator, size, count) for (operator, size), count in Counter(there).items()]
        return sorted(found, key=lambda each: -each[1] * each[2])


def by_allocator(run: Callable[[], object]) -> int:
    """The most bytes that were taken from the allocator while this ran, and not given back by then.

    On a CPU these are what the profiler writes down, inside of compiled code and kernels too.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _silence(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    assert found.profiler is not None
    assert found.profiler.kineto_results is not None
    changes = [each for each in found.profiler.kineto_results.events() if each.name() == "[memory]"]
    now = most = 0
    for change in sorted(changes, key=lambda each: each.start_ns()):
        now += change.nbytes()
        most = max(most, now)
    return most


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """Inside, what the profiler's C++ says to the standard error goes nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def by_process(run: Callable[[], object]) -> int:
    """How many bytes the process grew by while this ran, resident; what was free is given back first."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset_peak()
    before = peak()
    run()
    return peak() - before


def storages(tensors: Iterable[Tensor]) -> list[StorageWeakRef]:
    """Weak references to the memory of these."""
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]


def isolated(run: Callable[..., _T], *args: Any) -> _T:
    """What the function returns in a process of its own, with one thread where there is no GPU.

    Raises:
        RuntimeError: it failed there; the message says how.
    """
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    here, there = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # this process may have threads, that one needs none
        process = context.Process(target=_report, args=(there, run, args))
        process.start()
    there.close()
    try:
        made, failed = here.recv()
    except EOFError:
        made, failed = None, "the process was ended, as by a lack of memory"
    process.join()
    if failed:
        raise RuntimeError(failed)
    return made


def _report(there: Connection, run: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what came along from the process before is not searched for garbage again and again
    try:
        there.send((run(*args), ""))
    except Exception as error:  # the other rows are wanted whatever happens in this one
        there.send((None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
