"""What ways have learned after the same time by the clock, and after the same number of samples.

python -m tests.benchmarks.distributed.learn --data FILE.txt --seconds 60 --rtt 0 200
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from dni_fx.distributed.processes import joined
from tests.benchmarks.distributed.nets import TASKS
from tests.benchmarks.distributed.relay import Link, join_by_relay, relayed
from tests.benchmarks.distributed.speed import bytes_of
from tests.benchmarks.distributed.way import Way
from tests.benchmarks.distributed.ways import ways
from tests.benchmarks.learning.data import Batch, text
from tests.processes import run_ranks

TIME = 64
TIMED = 8
"""Steps by which the pace of a way is told, before what counts begins."""


def learned(
    rank: int, way: str, micros: list[int], lag: int, seconds: float, steps: int, data: Path | None
) -> tuple[int, float, float]:
    """Steps, seconds and loss on held-out text of one way, after so many seconds, or steps if given."""
    join_by_relay(rank)
    joined(3600.0)
    torch.manual_seed(0)
    task, known = TASKS["gpt"], text(data, TIME)
    made = ways(micros, lag, dist.get_world_size())[way](task)
    batches = known.batches(task.size, seed=0)
    pace = _timed(made, batches, TIMED)
    count = torch.tensor(steps or max(int(seconds / pace), 1))
    dist.broadcast(count, 0)  # the pace of one rank counts for all
    took = _timed(made, batches, int(count)) * int(count)
    return int(count) + TIMED, took, judged(made.part, [*known.held_out()])


def _timed(way: Way, batches: Iterator[Batch], steps: int) -> float:
    dist.barrier()
    begin = time.perf_counter()
    for x, y in itertools.islice(batches, steps):
        way.step(x, y)
    way.end()
    dist.barrier()
    return (time.perf_counter() - begin) / steps


@torch.no_grad()
def judged(part: nn.Module, batches: list[Batch]) -> float:
    """The loss of the whole net on the first rank, of which each rank has a part."""
    parts: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    if dist.get_rank():
        return 0.0
    found = 0.0
    for x, y in batches:
        value = x
        for each in parts:
            assert isinstance(each, nn.Module)
            value = each.eval()(value)
        found += float(TASKS["gpt"].loss(value, y)) / len(batches)
    return found


def main() -> None:
    """Print one line for each way and distance."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=["1f1b 4", "1f1b 8", "dni labels", "dni zero"])
    parser.add_argument("--micro", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--lag", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=0, help="the same for all, in the place of seconds")
    parser.add_argument("--rtt", nargs="+", type=float, default=[0.0], help="milliseconds there and back")
    parser.add_argument("--bandwidth", default="50Mbit", help="of each direction, where there is an rtt")
    parser.add_argument("--data", type=Path)
    asked = parser.parse_args()
    for rtt, row in itertools.product(asked.rtt, asked.rows):
        with relayed(Link(rtt / 1e3, bytes_of(asked.bandwidth)) if rtt else None):
            facts = row, asked.micro, asked.lag, asked.seconds, asked.steps, asked.data
            told = run_ranks(learned, asked.ranks, *facts, seconds=3600)
        if isinstance(told[0], str):
            raise SystemExit(told[0])
        steps, took, loss = told[0]
        print(
            f"rtt {rtt:g} ms, {row:12} {steps:6,} steps in {took:6.1f} s: {loss:.3f} on held-out text",
            flush=True,
        )


if __name__ == "__main__":
    main()
