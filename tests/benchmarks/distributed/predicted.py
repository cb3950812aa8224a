"""What the simulation of schedules says of runs, when it has learned what a runtime takes from another net.

Stages are measured alone, between the rows of the run. Bookkeeping is what makes the rows of the net that
calibrates come out right; messages are measured by themselves. Nets whose stages sleep need few cores. The
third of the rounds counts in which other programs had least of the machine.
`bare` is what is said without either. Figures are by the median of rounds, those in brackets by the least.

python -m tests.benchmarks.distributed.predicted --calibrate brief --nets gpt mlp slow --ranks 2
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from dni_fx.distributed.processes import joined
from dni_fx.schedules import SCHEDULES
from dni_fx.schedules.outcome import Outcome
from passes import parse
from tests.benchmarks.distributed.asleep import NETS, task_of
from tests.benchmarks.distributed.meter import Meter, handled, posts
from tests.benchmarks.distributed.nets import Task
from tests.benchmarks.distributed.prediction import (
    BARE,
    LAG,
    Found,
    Kit,
    Pick,
    calibrated,
    rows_of,
    runtime_of,
    simulated,
    true_seconds,
)
from tests.benchmarks.distributed.quiet import Others, quietest
from tests.benchmarks.distributed.relay import join_by_relay
from tests.benchmarks.distributed.speed import made_of
from tests.benchmarks.distributed.watch import Watch
from tests.benchmarks.distributed.way import Way
from tests.benchmarks.distributed.ways import ways
from tests.processes import run_ranks

_OFTEN = 3
"""How many times as many rounds the net has that calibrates: all else rests on it."""


def looked(rank: int, net: str, ranks: int, steps: int, rounds: int) -> dict[str, Any]:
    """Measure the stage of this rank and the ways, in turn in each round."""
    join_by_relay(rank)
    wire = joined(600.0)
    assert wire is not None
    torch.manual_seed(0)
    task = task_of(net, ranks)
    rows = rows_of(ranks)
    micros = sorted({parse(schedule, SCHEDULES).batches for schedule in rows.values()})
    made, meters = made_of(ways(micros, LAG, ranks), rows, task), {each: Meter(task, each) for each in micros}
    found: dict[str, list[tuple[float, dict[int, float]]]] = {name: [] for name in made}
    messages = {name: handled(post) for name, post in posts(wire).items()}
    watch, others, shares = Watch(), Others(), list[float]()
    with watch.at(wire):
        for _ in range(rounds + 1):
            for meter in meters.values():
                dist.barrier()
                meter.row(steps)
            for name, way in made.items():
                found[name].append(_row(way, task, steps, watch))
            shares.append(others.share())
    kept = [each + 1 for each in quietest(shares[1:])]  # the first round warms up
    return {
        "others": max(shares[each] for each in kept),
        "costs": {micro: [meter.rounds[each] for each in kept] for micro, meter in meters.items()},
        "sizes": {micro: meter.bytes for micro, meter in meters.items()},
        "rows": {name: [row[each] for each in kept] for name, row in found.items()},
        "messages": messages,
    }


def _row(way: Way, task: Task, steps: int, watch: Watch) -> tuple[float, dict[int, float]]:
    """Seconds a step, and the share of the time of its second half in which each other rank is awaited."""
    batch = task.batch(task.size)
    dist.barrier()
    begin = middle = time.perf_counter()
    for at in range(steps):
        if at == steps // 2:
            watch.reset()
            middle = time.perf_counter()
        way.step(*batch)
    half = time.perf_counter() - middle
    shares = {peer: seconds / half for peer, seconds in watch.seconds.items()}
    way.end()
    dist.barrier()
    return (time.perf_counter() - begin) / steps, shares


def main() -> None:
    """Print what a runtime takes, then measured and predicted milliseconds a step, and who waits for whom."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calibrate", choices=NETS, default="brief", help="on two ranks")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["gpt", "mlp", "slow"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[2])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    known = _looked(asked.calibrate, 2, asked, rounds=_OFTEN * asked.rounds)
    kits = {pick: calibrated(known, asked.steps, pick) for pick in (statistics.median, min)}
    for runtime, kit in kits[statistics.median].items():
        print(f"{runtime}, by {asked.calibrate} (others had {known[0]['others']:.0%}): {_told(kit)}")
    for net, ranks in itertools.product(asked.nets, asked.ranks):
        found = _looked(net, ranks, asked, asked.rounds)
        print(f"\n{net}, {ranks} ranks; others had {found[0]['others']:.0%} of the processors at most")
        print(f"{'':14}{'measured ms':>12}{'predicted ms':>14}{'off by':>16}{'bare':>16}")
        for row, schedule in rows_of(ranks).items():
            cells = [_compared(found, row, kits[pick][runtime_of(row)], asked.steps, pick) for pick in kits]
            (true, guess, off, bare), (_, _, least, least_bare) = cells
            print(
                f"{row:14}{1e3 * true:12.1f}{1e3 * guess:14.1f}{f'{off:+.0%} ({least:+.0%})':>16}"
                f"{f'{bare:+.0%} ({least_bare:+.0%})':>16}"
            )
            kit = kits[statistics.median][runtime_of(row)]
            print(_waiting(found, row, simulated(found, schedule, kit, asked.steps)), flush=True)


def _compared(
    found: Sequence[Found], row: str, kit: Kit, steps: int, pick: Pick
) -> tuple[float, float, float, float]:
    """Seconds a step, measured and predicted, and how far that is off, with a kit and without."""
    true, schedule = true_seconds(found, row, pick), rows_of(len(found))[row]
    guess, bare = (simulated(found, schedule, each, steps, pick).seconds / steps for each in (kit, BARE))
    return true, guess, guess / true - 1, bare / true - 1


def _looked(net: str, ranks: int, asked: argparse.Namespace, rounds: int) -> list[Found]:
    found = run_ranks(looked, ranks, net, ranks, asked.steps, rounds, seconds=3600)
    if wrong := [each for each in found if isinstance(each, str)]:
        raise SystemExit("\n".join(wrong))
    return found


def _told(kit: Kit) -> str:
    book, net = kit.bookkeeping, kit.network
    parts = [f"{1e3 * book.passing:.2f} ms a pass and {1e3 * book.step:.2f} a step"]
    for name, each in (("to send", net.sending), ("to take", net.receiving)):
        parts.append(f"{name} {1e3 * each.message:.2f} ms and {1e9 * each.byte:.2f} a MB")
    parts.append(f"{1e3 * net.latency:.2f} ms and {1e9 / net.bandwidth:.2f} a MB on the way")
    return ", ".join(parts)


def _waiting(found: Sequence[Found], row: str, outcome: Outcome) -> str:
    """Which two ranks are worst, and how far the shares of all are apart."""
    told = {(wait.rank, wait.sender): wait.share for wait in outcome.waits()}
    true: dict[tuple[int, int], float] = {}
    for rank, each in enumerate(found):
        for peer in range(len(found)):
            shares = [shares.get(peer, 0.0) for _, shares in each["rows"][row]]
            true[rank, peer] = statistics.median(shares)
    (rank, peer) = worst = max(true, key=lambda pair: true[pair])
    apart = max(true, key=lambda pair: abs(true[pair] - told.get(pair, 0.0)))
    return (
        f"    rank {rank} waits for {peer} {true[worst]:.0%} of its time, predicted "
        f"{told.get(worst, 0.0):.0%}; "
        f"farthest apart: rank {apart[0]} for {apart[1]}, {true[apart]:.0%} and {told.get(apart, 0.0):.0%}"
    )


if __name__ == "__main__":
    main()
