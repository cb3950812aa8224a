"""How the time and memory of cutting a model grow with its graph, phase by phase.

    python -m tests.benchmarks.scale [--sizes 100 1000 10000 100000] [--kinds chain ...] [--width 1 2]
        [--stages 4] [--limit 300] [--json FILE]

Measures every graph in a process of its own (`tests.benchmarks.phases`) and prints seconds of the processor
and the peak memory of that process in each phase. The last rows of a kind say with which power of the number
of nodes a phase grows, fitted by least squares to the logarithms of all graphs of 1,000 nodes and more. A
phase may take `--limit` seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.benchmarks.generate import KINDS
from tests.benchmarks.phases import Measurement, phases_of

FROM = 1000
"""Smaller graphs say more about what any call costs than about growth."""
FLOOR = 0.02
"""Seconds below which a time is mostly noise; it counts as this long."""


def exponent(found: Iterable[Measurement]) -> float | None:
    """The power of the number of nodes with which the time grows; None from less than two graphs.

    >>> exponent(Measurement("", n, "", seconds=n**2) for n in (1000, 2000, 4000))
    2.0
    """
    kept = [each for each in found if not each.failed and each.nodes >= 0.95 * FROM]
    if len({each.nodes for each in kept}) < 2:
        return None
    nodes = np.log([each.nodes for each in kept])
    seconds = np.log([max(each.seconds, FLOOR) for each in kept])
    return round(float(np.polyfit(nodes, seconds, 1)[0]), 3)


def measured(kind: str, nodes: int, widths: Sequence[int], stages: int, limit: int) -> Iterator[Measurement]:
    """Every phase of one graph, measured in a process of its own; one that did not end has failed."""
    numbers = map(str, ("--widths", *widths, "--stages", stages, "--limit", limit))
    command = [sys.executable, "-m", "tests.benchmarks.phases", kind, str(nodes), *numbers]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    # A phase that does not listen to its alarm is ended from here, with all that would come after it.
    longest = (len(phases_of(widths)) + 1) * (limit + 10)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, env=alone, text=True, timeout=longest)
        lines, end = done.stdout.splitlines(), f"exit {done.returncode}"
    except subprocess.TimeoutExpired as error:
        lines, end = (error.stdout or b"").decode().splitlines(), "TimeoutError: too slow"
    found = [Measurement(**json.loads(line)) for line in lines]
    yield from found
    if end != "exit 0":  # a crash, say: the phase that it was in is the first that did not report
        missing = [phase for phase in phases_of(widths) if phase not in {each.phase for each in found}]
        yield from (Measurement(kind, nodes, phase, failed=end) for phase in missing[:1])


def table(found: Sequence[Measurement], phases: Sequence[str]) -> Table:
    """Seconds and memory by graph and phase, and how the times of each kind grow."""
    made = Table("kind", "nodes", *phases, title="seconds (peak MiB) of one process, and growth")
    for kind in dict.fromkeys(each.kind for each in found):
        of_kind = [each for each in found if each.kind == kind]
        for nodes in dict.fromkeys(each.nodes for each in of_kind):
            cells = {each.phase: cell(each) for each in of_kind if each.nodes == nodes}
            made.add_row(kind, f"{nodes:,}", *(cells.get(phase, "-") for phase in phases))
        grows = (exponent(each for each in of_kind if each.phase == phase) for phase in phases)
        made.add_row(kind, "exponent", *("-" if each is None else f"{each:.2f}" for each in grows))
        made.add_section()
    return made


def cell(found: Measurement) -> str:
    """One measurement as text."""
    if found.failed:
        return found.failed.partition(":")[0]
    return f"{found.seconds:.2f} ({found.mib:.0f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--width", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[Measurement] = []
    graphs = [(kind, nodes) for kind in given.kinds for nodes in sorted(given.sizes)]
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for kind, nodes in progress.track(graphs):
            found += measured(kind, nodes, given.width, given.stages, given.limit)
    Console(width=160).print(table(found, phases_of(given.width)))
    if given.json:
        given.json.write_text(json.dumps([vars(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
