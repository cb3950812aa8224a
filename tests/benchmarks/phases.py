"""What cutting a model takes, phase by phase: seconds and memory, one graph at a time.

`python -m tests.benchmarks.phases KIND NODES [--widths 1 2] [--stages 4] [--limit 120]` prints a line of JSON
for each phase as soon as it has ended. A phase that fails, or takes longer than the limit, says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.policies import POLICIES
from passes import Pipeline, Plan, parse
from passes.dataflow import carrying, dataflow
from passes.mark_boundaries import MarkBoundaries
from passes.placement import plan_of
from passes.split_stages import split_stages
from tests.benchmarks.generate import generate
from tests.benchmarks.peak import peak, reset_peak

_WARM_UP = 100


@dataclass(frozen=True)
class Measurement:
    """Seconds of the processor, and the most memory of the process (MiB, resident), in one phase."""

    kind: str
    nodes: int
    phase: str
    seconds: float = 0.0
    mib: float = 0.0
    failed: str = ""


class Meter:
    """Runs phases and prints what each took."""

    def __init__(self, kind: str, limit: int, is_silent: bool = False) -> None:
        self.kind = kind
        self.limit = limit
        self.is_silent = is_silent
        self.nodes = 0

    def measure(self, phase: str, run: Callable[[], Any]) -> Any:
        """What the run returns; None if it fails or is too slow."""
        gc.collect()
        reset_peak()
        signal.signal(signal.SIGPROF, _stop)
        signal.setitimer(signal.ITIMER_PROF, self.limit)
        start = time.process_time()
        made, failed = None, ""
        try:
            made = run()
        except Exception as error:
            failed = f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - start
        found = Measurement(self.kind, self.nodes, phase, seconds, peak() / 2**20, failed)
        if not self.is_silent:
            print(json.dumps(asdict(found)), flush=True)
        return made


def phases(meter: Meter, nodes: int, widths: Sequence[int], stages: int) -> None:
    """Measure every phase for one graph; marking and splitting do not depend on a policy."""
    model, example = generate(meter.kind, nodes)
    meter.nodes = nodes

    def capture() -> dni_fx.Program:
        program = dni_fx.capture(model, example)
        meter.nodes = len(program.captures[0][1].graph.nodes)
        return program

    program = meter.measure("capture", capture)
    if program is None:
        return
    gm = meter.measure("costs", lambda: training_graph(program))
    if gm is None:
        return
    flow = meter.measure("dataflow", partial(dataflow, gm))
    if flow is None:
        return
    plan = by_order(flow, stages)
    marked = meter.measure("mark", lambda: Pipeline((MarkBoundaries(plan),)).run(gm))
    if marked is not None:
        meter.measure("split", partial(split_stages, marked, plan))
    for width in widths:
        policy = parse(f"balanced:stages={stages},width={width}", POLICIES)
        meter.measure(f"plan, width {width}", partial(policy.plan, flow))


def phases_of(widths: Sequence[int]) -> list[str]:
    """The names of all phases, in order."""
    return ["capture", "costs", "dataflow", "mark", "split", *(f"plan, width {width}" for width in widths)]


def by_order(flow: Any, stages: int) -> Plan:
    """A plan that has the same number of carrying values in every stage, in graph order."""
    names = carrying(flow)
    return plan_of(flow, {name: at * stages // len(names) for at, name in enumerate(names)}, "order")


def _stop(signum: int, frame: object) -> None:
    raise TimeoutError("too slow")


def main() -> None:
    """Measure one graph."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind")
    parser.add_argument("nodes", type=int)
    parser.add_argument("--widths", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--limit", type=int, default=120)
    given = parser.parse_args()
    # What torch and networkx load and prepare at their first use is no matter of size.
    phases(Meter(given.kind, given.limit, is_silent=True), _WARM_UP, given.widths, given.stages)
    phases(Meter(given.kind, given.limit), given.nodes, given.widths, given.stages)


if __name__ == "__main__":
    main()
