"""Steps a second of every way, taken in turn in one run.

python -m tests.benchmarks.distributed --nets gpt resnet mlp --micro 1 4
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.distributed.asleep import NETS
from tests.benchmarks.distributed.nets import TASKS
from tests.benchmarks.distributed.relay import Link, relayed
from tests.benchmarks.distributed.speed import bytes_of, measured
from tests.processes import run_ranks


def main() -> None:
    """Measure, print one table a net, and keep the times if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(TASKS))
    parser.add_argument("--micro", nargs="+", type=int, default=[1, 4], help="micro-batches of the schedules")
    parser.add_argument("--rows", nargs="*", default=[], help="beginnings of the names of ways; all if none")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="steps of each way in its turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rtt", nargs="+", type=float, default=[0.0], help="milliseconds there and back")
    parser.add_argument("--bandwidth", default="50Mbit", help="of each direction, where there is an rtt")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for net, rtt in itertools.product(asked.nets, asked.rtt):
        facts = net, asked.micro, asked.rows, asked.lag, asked.steps, asked.rounds
        with relayed(Link(rtt / 1e3, bytes_of(asked.bandwidth)) if rtt else None):
            told = run_ranks(measured, asked.ranks, *facts, seconds=3600)
        if wrong := [each for each in told if isinstance(each, str)]:
            raise SystemExit("\n".join(wrong))
        far = f", {rtt:g} ms and {asked.bandwidth} apart" if rtt else ""
        times = {name: [each[0] for each in row] for name, row in told[0].items()}
        work = {name: max(min(each[1] for each in rank[name]) for rank in told) for name in told[0]}
        found[f"{net}{far}"] = times
        print(
            f"\n{net}, {asked.ranks} ranks{far}, torch {torch.__version__}\n{table(times, work)}", flush=True
        )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), "utf-8")


def table(times: dict[str, list[float]], work: dict[str, float]) -> str:
    """Milliseconds a step of every way, and its steps a second in those of others in the same round.

    `work` is the least processor time of the rank that has most to do.
    """
    against = [name for name in ("gpipe 1", "1f1b 4", "bound", "one process") if name in times]
    lines = [
        f"{'':14}{'median ms':>10}{'least ms':>10}{'work ms':>10}"
        + "".join(f"{'x ' + name:>16}" for name in against)
    ]
    for name, row in times.items():
        ratios = [
            statistics.median(b / a for a, b in zip(row, times[other], strict=True)) for other in against
        ]
        least = [min(times[other]) / min(row) for other in against]
        cells = "".join(f"{f'{r:.2f} ({m:.2f})':>16}" for r, m in zip(ratios, least, strict=True))
        mine = (statistics.median(row), min(row), work[name])
        lines.append(f"{name:14}" + "".join(f"{1e3 * each:10.1f}" for each in mine) + cells)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
