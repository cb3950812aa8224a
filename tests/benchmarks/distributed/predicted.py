"""What the simulation of schedules says of a run whose stages were measured one by one, beside the run.

python -m tests.benchmarks.distributed.predicted --nets gpt mlp --ranks 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dni_fx.distributed.processes import joined
from dni_fx.schedules import SCHEDULES
from dni_fx.schedules.costs import Network, StageCost
from dni_fx.schedules.layout import Connection, Layout
from dni_fx.schedules.simulation import simulate
from passes import parse
from tests.benchmarks.distributed.nets import TASKS, Task
from tests.benchmarks.distributed.relay import join_by_relay
from tests.benchmarks.distributed.speed import measured
from tests.benchmarks.distributed.way import adam
from tests.processes import run_ranks

SCHEDULED = {
    "gpipe 1": "gpipe:micro=1",
    "gpipe 4": "gpipe:micro=4",
    "1f1b 4": "1f1b:micro=4",
    "dni zero": "dni:lag=4",
}
"""Ways that are simulated, and the schedule of each."""


def costs(rank: int, net: str, micros: list[int], rounds: int) -> dict[int, list[float]]:
    """Seconds of the forward pass, the backward pass and the update of this rank's part, by micro-batches.

    All ranks measure at once, so they have the memory and the caches that they have in a run. The last two
    numbers are bytes that are sent on, and seconds that a round trip of so many bytes takes.
    """
    join_by_relay(rank)
    joined(600.0)
    task = TASKS[net]
    return {micro: _costs(task, rank, dist.get_world_size(), micro, rounds) for micro in micros}


def _costs(task: Task, rank: int, ranks: int, micro: int, rounds: int) -> list[float]:
    value, y = task.batch(task.size // micro)
    for each in range(rank):
        with torch.no_grad():
            value = task.part(each, ranks)(value)
    part = task.part(rank, ranks)
    optimizer, made = adam(part.parameters()), part(value)
    gradient = torch.randn_like(made)
    times: list[list[float]] = []
    for _ in range(rounds):
        dist.barrier()
        given = value.detach().requires_grad_(value.is_floating_point() and rank > 0)
        forward, out = _timed(lambda given=given: _forward(part, task, given, y, rank == ranks - 1))
        backward, _ = _timed(lambda out=out: out.backward(None if out.dim() == 0 else gradient))
        step, _ = _timed(optimizer.step)
        optimizer.zero_grad()
        times.append([forward, backward, step])
    typical = [statistics.median(row) for row in zip(*times, strict=True)]
    return [*typical, float(made.numel() * made.element_size()), _round_trip(made, rank, ranks)]


def _forward(part: nn.Module, task: Task, value: Tensor, y: Tensor, is_last: bool) -> Tensor:
    return task.loss(part(value), y) if is_last else part(value)


def _timed(work: Callable[[], Tensor | None]) -> tuple[float, Tensor]:
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found if found is not None else torch.empty(0)


def _round_trip(tensor: Tensor, rank: int, ranks: int) -> float:
    shape = torch.tensor([tensor.numel()] if rank == 0 else [0])
    dist.broadcast(shape, 0)
    block, begin = torch.empty(int(shape)), time.perf_counter()
    for _ in range(10):
        if rank == 0:
            dist.send(block, 1), dist.recv(block, 1)
        elif rank == 1:
            dist.recv(block, 0), dist.send(block, 0)
    return (time.perf_counter() - begin) / 10


def predicted(found: list[dict[int, list[float]]], schedule: str) -> float:
    """Seconds a step by the simulation, where `found` has the costs of every rank."""
    chosen = parse(schedule, SCHEDULES)
    mine = [rank[chosen.batches] for rank in found]
    stages = [StageCost(forward, backward, step=step) for forward, backward, step, _, _ in mine]
    size, trip = mine[0][3], mine[0][4]
    connections = tuple(Connection(at, at + 1, row[3], row[3]) for at, row in enumerate(mine[:-1]))
    layout = Layout(len(stages), len(stages), connections)
    timetable = chosen.timetable(layout, chosen.enough)
    return simulate(timetable, layout, stages, Network(bandwidth=2 * size / trip)).period * chosen.batches


def main() -> None:
    """Print measured and predicted milliseconds a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=TASKS, default=["gpt", "mlp"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6)
    asked = parser.parse_args()
    for net in asked.nets:
        found = run_ranks(costs, asked.ranks, net, [1, 4], asked.rounds, seconds=3600)
        rows = list(SCHEDULED) if asked.ranks <= 4 else ["dni zero"]
        told = run_ranks(measured, asked.ranks, net, [1, 4], rows, 4, asked.steps, asked.rounds, seconds=3600)
        if wrong := [each for each in (*found, *told) if isinstance(each, str)]:
            raise SystemExit("\n".join(wrong))
        print(f"\n{net}, {asked.ranks} ranks\n{'':12}{'measured ms':>12}{'predicted ms':>14}{'off by':>10}")
        for name in rows:
            true = statistics.median(each[0] for each in told[0][name])
            guess = predicted(found, SCHEDULED[name])
            print(
                f"{name:12}{1e3 * true:12.1f}{1e3 * guess:14.1f}{100 * (guess / true - 1):+9.0f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
