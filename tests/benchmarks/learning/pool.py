"""Many runs side by side, each in one of a few processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait

import torch
from typing_extensions import override

from tests.benchmarks.learning.jobs import Group, Job
from tests.benchmarks.learning.records import Run
from tests.benchmarks.learning.runs import attempt


class Here(Executor):
    """Runs what it is given at once, in this process."""

    @override
    def submit(self, fn, /, *args, **kwargs):
        done = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def default_processes() -> int:
    """One for each core, or one alone on a GPU."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def carried_out(groups: Sequence[Group], processes: int) -> Iterator[Run]:
    """Every run when it has ended; group after group, and in each the first before the others.

    On a CPU each process has one thread.
    """
    ready: deque[tuple[Job, float, Group | None]] = deque()
    for group in groups:
        if group.first is not None:
            ready.append((group.first, 0.0, group))
        else:
            ready += [(job, group.seconds, None) for job in group.others]
    busy: dict[Future[Run], Group | None] = {}
    with _executor(processes) as executor:
        while ready or busy:
            while ready and len(busy) < processes:
                job, until, group = ready.popleft()
                busy[executor.submit(attempt, job, until)] = group
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                group, run = busy.pop(future), future.result()
                if group is not None:
                    ready.extendleft((job, run.seconds, None) for job in reversed(group.others))
                yield run


def _executor(processes: int) -> Executor:
    if processes == 1:
        _alone()
        return Here()
    context = multiprocessing.get_context("spawn")  # threads do not survive a fork
    return ProcessPoolExecutor(processes, context, initializer=_alone)


def _alone() -> None:
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
