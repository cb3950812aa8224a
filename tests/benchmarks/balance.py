"""How evenly each policy divides a graph's FLOPs, beside the best there is and what other tools do.

    python -m tests.benchmarks.balance [--stages 4] [NAME ...]

For each graph of the zoo, cut into so many stages or as many as it can be: the cost of the costliest stage
over the mean (FLOPs, forward and backward), and in brackets how many gradient-carrying values cross the
widest cut. `bound` is what no plan is below: 1, or the costliest values that must share a stage over the
mean. `by parameters` and `by FLOPs` cut the graph's order where the running sum is nearest to equal parts, as
other tools do; these also part values that must share a stage. `of optimum` is the cost of the costliest
stage over the least that any plan of cuts as wide has, found by looking at every cut; where no such plan has
as many stages, of the narrowest cuts that have.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import accumulate

import networkx as nx
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import dni_fx
from dni_fx.assembly import training_graph
from dni_fx.errors import PlanError
from dni_fx.policies.balanced import Balanced
from dni_fx.policies.base import Policy
from dni_fx.policies.bottleneck import Bottleneck
from dni_fx.policies.min_cut import MinCut
from passes import Plan
from passes.costs import flops, parameters
from passes.dataflow import carrying, computed, dataflow, precedence
from tests.optimum import DownSets
from tests.silence import silence
from tests.zoo.checks import Subject, subjects

MOST = 100_000
"""Down-sets up to which all of a graph are looked at; of more, those that few values can cross."""
WIDTHS = 2, 3
POLICIES: Mapping[str, Callable[[int], Policy]] = {
    "bottleneck": Bottleneck,
    "width 2": Balanced,
    "width 3": lambda stages: Balanced(stages, width=3),
    "min-cut": MinCut,
}
SPLITS = {"by parameters": parameters, "by FLOPs": flops}
WIDE = [f"width {width}" for width in WIDTHS]
COLUMNS = [*POLICIES, *SPLITS]
SLOW = 2.0
"""Seconds; a policy that takes longer is told of."""


@dataclass(frozen=True)
class Score:
    """How evenly a graph is divided."""

    costliest: int
    """What the costliest stage costs."""
    balance: float
    """That over the mean."""
    widest: int
    """How many carrying values cross the widest cut."""
    seconds: float = 0.0
    """How long the plan took to find."""


@dataclass
class Row:
    """What was found of one graph."""

    name: str
    family: str
    nodes: int
    values: int
    stages: int
    bound: float
    scores: dict[str, Score]
    optima: dict[str, tuple[int, int]]
    """The least cost of the costliest stage, and the width of cuts that it takes, by column of `scores`."""

    def ratio(self, column: str) -> float:
        """The costliest stage over that of the best plan there is."""
        return self.scores[column].costliest / self.optima[column][0]


def cost_of(flow: nx.DiGraph[str]) -> dict[str, int]:
    """FLOPs of each computed node; where nothing that carries a gradient has any, one for each that does."""
    cost = flops(flow)
    if any(cost[name] for name in carrying(flow)):
        return cost
    return {name: int(flow.nodes[name]["carries"]) for name in cost}


def chosen(patterns: Sequence[str]) -> Iterator[Subject]:
    """The models whose names match, in one type each."""
    for subject in subjects():
        plain = subject.family == "hand" or subject.dtype == torch.float32
        if plain and (not patterns or any(fnmatch(subject.name, pattern) for pattern in patterns)):
            yield subject


def flow_of(subject: Subject) -> nx.DiGraph[str]:
    """The dataflow of a model's training graph."""
    args, kwargs = subject.call(subject.batches[0])
    return dataflow(training_graph(dni_fx.capture(subject.model(), kwargs or args)))


def bound(flow: nx.DiGraph[str], cost: Mapping[str, int], stages: int) -> float:
    """What the costliest stage costs at least, over the mean: the mean, or what must share a stage."""
    units = nx.get_node_attributes(precedence(flow), "members").values()
    return max(1.0, stages * max(sum(cost[name] for name in unit) for unit in units) / sum(cost.values()))


def score(
    flow: nx.DiGraph[str], cost: Mapping[str, int], stage_of: Mapping[str, int], stages: int
) -> tuple[int, float, int]:
    """Cost of the costliest stage, that over the mean, and how many carrying values cross the widest cut.

    `stage_of` is by node name. A value crosses each cut between its stage and the last of its readers.
    """
    costs, crossing = [0] * stages, [0] * stages
    for name, stage in stage_of.items():
        costs[stage] += cost[name]
    held = set(carrying(flow))
    for name in held:
        last = max((stage_of[reader] for reader in flow.succ[name] if reader in held), default=0)
        for cut in range(stage_of[name], last):
            crossing[cut] += 1
    return max(costs), max(costs) * stages / sum(costs), max(crossing)


def split(flow: nx.DiGraph[str], cost: Mapping[str, int], stages: int) -> dict[str, int] | None:
    """Stages of graph order, cut where the running sum of a cost is nearest to equal parts; None of nothing.

    >>> flow = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "d")])
    >>> for name in flow: flow.nodes[name]["anchor"] = name
    >>> split(flow, {"a": 1, "b": 1, "c": 2, "d": 4}, 2)
    {'a': 0, 'b': 0, 'c': 0, 'd': 1}
    """
    total = sum(cost.values())
    if not total:
        return None
    names = computed(flow)
    sums = accumulate(cost[name] for name in names)
    # A node lies before a cut if its middle does.
    middles = (after - cost[name] / 2 for name, after in zip(names, sums, strict=True))
    stage_of = (min(int(middle * stages / total), stages - 1) for middle in middles)
    return dict(zip(names, stage_of, strict=True))


def plan_of(policy: Policy, flow: nx.DiGraph[str]) -> tuple[Plan, float] | None:
    """The plan and the seconds of the processor that it took; None if the policy has none."""
    start = time.process_time()
    try:
        return policy.plan(flow), time.process_time() - start
    except PlanError:
        return None


def optimum(sets: DownSets, cost: Mapping[str, int], stages: int, width: int) -> tuple[int, int]:
    """The least cost of the costliest stage by cuts of this width, or of the next that do; and the width."""
    return next(
        (least, wide)
        for wide in range(width, len(sets.names) + 1)
        if (least := sets.least(sets.cuts(wide, MOST), stages, cost)) is not None
    )


def examine(name: str, family: str, flow: nx.DiGraph[str], stages: int) -> Row | None:
    """All columns of one graph, at so many stages or the most that it has; None if it cannot be cut."""
    stages = next((some for some in range(stages, 1, -1) if plan_of(Balanced(some), flow)), 1)
    if stages == 1:
        return None
    cost = cost_of(flow)
    scores: dict[str, Score] = {}
    for column, policy in POLICIES.items():
        if (made := plan_of(policy(stages), flow)) is not None:
            stage_of = {each: made[0].stage_of[flow.nodes[each]["anchor"]] for each in computed(flow)}
            scores[column] = Score(*score(flow, cost, stage_of, stages), made[1])
    for column, kind in SPLITS.items():
        if (stage_of := split(flow, kind(flow), stages)) is not None:
            scores[column] = Score(*score(flow, cost, stage_of, stages))
    sets = DownSets(flow)
    optima = {column: optimum(sets, cost, stages, width) for column, width in zip(WIDE, WIDTHS, strict=True)}
    sizes = len(flow), len(carrying(flow)), stages
    return Row(name, family, *sizes, bound(flow, cost, stages), scores, optima)


def cells(row: Row) -> Iterator[str]:
    """The row as text."""
    yield from (row.name, str(row.nodes), str(row.values), str(row.stages), f"{row.bound:.2f}")
    for column in COLUMNS:
        found = row.scores.get(column)
        yield "-" if found is None else f"{found.balance:.2f} ({found.widest})"
        if column in WIDE:
            yield f"{row.ratio(column):.4f}"


def summary(rows: Sequence[Row], title: str, of: Callable[[Sequence[float]], float]) -> list[str]:
    """The medians, or the worst, of each column as text, and of how many graphs if not of all."""
    found = [title, "", "", "", f"{of([row.bound for row in rows]):.2f}"]
    for column in COLUMNS:
        there = [row.scores[column] for row in rows if column in row.scores]
        if not there:
            found.append("-")
            continue
        balance, widest = of([each.balance for each in there]), of([each.widest for each in there])
        found.append(f"{balance:.2f} ({widest:g})" + f" of {len(there)}" * (len(there) < len(rows)))
        if column in WIDE:
            found.append(f"{of([row.ratio(column) for row in rows]):.4f}")
    return found


def table(rows: Sequence[Row]) -> Table:
    """A row for each graph, and the medians and the worst of each family."""
    columns = [each for c in COLUMNS for each in ([c, "of optimum"] if c in WIDE else [c])]
    made = Table("graph", "nodes", "values", "stages", "bound", *columns)
    made.columns[0].no_wrap = True
    for family in dict.fromkeys(row.family for row in rows):
        of_family = [row for row in rows if row.family == family]
        for row in of_family:
            made.add_row(*cells(row))
        made.add_section()
        made.add_row(*summary(of_family, f"median of {len(of_family)}", statistics.median))
        made.add_row(*summary(of_family, "worst", max))
        made.add_section()
    return made


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What a reader should not miss: plans that are not the best, or that took long."""
    for row in rows:
        for column in WIDE:
            if row.ratio(column) != 1:
                yield f"{row.name}: {column} is {row.ratio(column):.4f} of the optimum"
        if row.scores["width 3"].costliest > row.scores["width 2"].costliest:
            yield f"{row.name}: width 3 is worse than width 2"
        for column, found in row.scores.items():
            if found.seconds > SLOW:
                yield f"{row.name}: {column} took {found.seconds:.1f} s"


def main() -> None:
    """Plan and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="patterns of models' names; all if none")
    parser.add_argument("--stages", type=int, default=4)
    options = parser.parse_args()
    rows: list[Row] = []
    with silence(), Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        for subject in chosen(options.names):
            bar.update(task, description=subject.name)
            try:
                found = examine(subject.name, subject.family, flow_of(subject), options.stages)
            except Exception as error:  # any model's code runs here, and the others are wanted as well
                print(f"{subject.name}: {error!r}", file=sys.stderr)
                continue
            rows += [] if found is None else [found]
    console = Console(width=200)
    console.print(table(rows))
    for remark in remarks(rows):
        console.print(remark)


if __name__ == "__main__":
    main()
