"""The time of a step of each way, on all ranks, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.distributed as dist

from dni_fx.distributed.processes import joined
from tests.benchmarks.distributed.asleep import task_of
from tests.benchmarks.distributed.nets import Task
from tests.benchmarks.distributed.relay import join_by_relay
from tests.benchmarks.distributed.way import Way, WayError
from tests.benchmarks.distributed.ways import ways


def bytes_of(text: str) -> float:
    """Bytes a second of a bandwidth such as 50Mbit."""
    for unit, size in {"Gbit": 1e9, "Mbit": 1e6, "kbit": 1e3}.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * size / 8
    raise SystemExit(f"{text} is no bandwidth: write 50Mbit.")


def measured(
    rank: int, net: str, micros: list[int], rows: list[str], lag: int, steps: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds a step of every way in every round: by the clock, and of the processor in this main thread.

    The order of the ways turns from round to round.
    """
    join_by_relay(rank)
    joined(600.0)
    torch.manual_seed(0)
    task = task_of(net, dist.get_world_size())
    known = ways(micros, lag, dist.get_world_size())
    chosen = [name for name in known if not rows or name.startswith(tuple(rows))]
    made = made_of(known, chosen, task)
    batch = task.batch(task.size)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for each in range(rounds + 1 if made else 0):
        turned = [*made][each % len(made) :] + [*made][: each % len(made)]
        for name in turned:
            dist.barrier()
            begin, work = time.perf_counter(), time.thread_time()
            for _ in range(steps):
                made[name].step(*batch)
            made[name].end()
            worked = time.thread_time() - work
            dist.barrier()
            if each:  # the first round warms up
                times[name].append(((time.perf_counter() - begin) / steps, worked / steps))
    return times


def made_of(known: Mapping[str, Callable[[Task], Way]], chosen: Iterable[str], task: Task) -> dict[str, Way]:
    """The ways that can be gone with a task; a line says of each other one why not."""
    made: dict[str, Way] = {}
    for name in chosen:
        try:
            made[name] = known[name](task)
        except WayError as error:
            if dist.get_rank() == 0:
                print(f"{name} is left out: {error}", flush=True)
    return made
