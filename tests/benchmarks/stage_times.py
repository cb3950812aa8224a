"""How well each policy balances the time that stages really take.

    python -m tests.benchmarks.stage_times [--stages 4] [--rounds 15] [--policies TEXT ...] [NAME ...]

Each plan is carried out: its stages run one after another, forward on what the stages before made and then
backward, as each would on a device of its own. A stage's time is the median, and the least, over the
rounds, in which the policies take turns. Printed is the costliest stage's time over the mean, for each
model, and the medians over the models that all policies can cut. `resnet20` is a net of that shape, at
32 samples of (3, 32, 32).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import dni_fx
from dni_fx.assembly import cut_graph
from dni_fx.errors import DniError
from dni_fx.stage import Stage
from passes import GraphError
from tests.silence import silence
from tests.zoo.checks import subjects

POLICIES = (
    "balanced:cost=flops",
    "balanced:cost=time",
    "balanced:cost=parameters",
    "bottleneck",
    "min-cut",
)


class Residual(nn.Module):
    """Two convolutions around which the input passes, thinned out where the block is wider and smaller."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride = width // before
        self.first = nn.Conv2d(before, width, 3, stride=self.stride, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        self.more = width - before

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.second(torch.relu(self.norms[0](self.first(x)))))
        around = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return torch.relu(y + around)


def resnet20() -> nn.Module:
    """Nine blocks in three groups of 16, 32 and 64 channels (He et al. 2016, section 4.2)."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Residual(one, other) for one, other in itertools.pairwise(widths)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks, head
    )


Model = tuple[nn.Module, Any]


def models(patterns: Sequence[str]) -> Iterator[tuple[str, Model]]:
    """The models whose names match, each with an example."""

    def wanted(name: str) -> bool:
        return not patterns or any(fnmatch(name, pattern) for pattern in patterns)

    if wanted("resnet20"):
        yield "resnet20", (resnet20(), (torch.randn(32, 3, 32, 32),))
    for subject in subjects():
        plain = subject.family == "hand" or subject.dtype == torch.float32
        if plain and wanted(subject.name):
            args, kwargs = subject.call(subject.batches[0])
            yield subject.name, (subject.model(), kwargs or args)


@dataclass
class Cut:
    """A model cut by one policy, with the times of its stages, round by round."""

    stages: tuple[Stage, ...]
    inputs: Mapping[str, Tensor]
    times: list[list[float]] = field(default_factory=list)

    def run(self) -> None:
        """Run every stage once, forward and backward, each by itself."""
        values: dict[str, Any] = dict(self.inputs)
        times: list[float] = []
        for stage in self.stages:
            reads = [_leaf(value) for value in stage.reads(values)]
            start = time.perf_counter()
            made = stage.run(reads)
            results = [t for t in _tensors(list(made.values())) if t.grad_fn is not None]
            torch.autograd.backward(results, [torch.ones_like(t) for t in results])
            times.append(time.perf_counter() - start)
            for parameter in stage.parameters():
                parameter.grad = None
            values |= {name: _leaf(value) for name, value in made.items()}
        self.times.append(times)

    def stage_times(self, of: Callable[[list[float]], float]) -> list[float]:
        """Seconds of each stage, of all rounds but the first: the median, say, or the least."""
        return [of(list(each)) for each in zip(*self.times[1:], strict=True)]

    def balance(self, of: Callable[[list[float]], float]) -> float:
        """Time of the costliest stage over the mean."""
        times = self.stage_times(of)
        return max(times) / statistics.mean(times)


def _leaf(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().clone()
    return copy.requires_grad_().clone() if value.requires_grad else copy


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def cut(program: dni_fx.Program, policy: str, stages: int) -> Cut | str:
    """The model cut by a policy, or what the policy says against it."""
    text = f"{policy}{',' if ':' in policy else ':'}stages={stages}"
    try:
        found = dni_fx.decouple(program, plan=dni_fx.plan(program, text), synthesizer="zero")
    except (DniError, GraphError) as error:
        return str(error).splitlines()[0]
    graph = cut_graph(found)
    assert program.example is not None
    inputs = dict(zip(graph.road.split.inputs, program.example.copies(), strict=True))
    return Cut(graph.road.stages, inputs)


def measured(model: Model, policies: Sequence[str], stages: int, rounds: int) -> dict[str, Cut | str]:
    """What each policy makes of a model, with the times of its stages, or why it makes nothing.

    A model that some policy cannot cut so often is cut as often as they all can, or as any can.
    """
    program = dni_fx.capture(*model)
    cuts: dict[str, Cut | str] = {}
    for count in range(stages, 1, -1):
        tried = {policy: cut(program, policy, count) for policy in policies}
        cuts = max(cuts, tried, key=lambda each: sum(isinstance(made, Cut) for made in each.values()))
        if all(isinstance(made, Cut) for made in cuts.values()):
            break
    done = [each for each in cuts.values() if isinstance(each, Cut)]
    if not done:
        return cuts or dict.fromkeys(policies, "it is not cut")
    gc.disable()
    for number in range(1 + rounds):
        for each in done[number % len(done) :] + done[: number % len(done)]:
            each.run()
    gc.enable()
    gc.collect()
    return cuts


def row(name: str, cuts: Mapping[str, Cut | str]) -> list[str]:
    """The measurements of one model as text."""
    shown = [
        "-" if isinstance(each, str) else f"{each.balance(statistics.median):.2f} ({each.balance(min):.2f})"
        for each in cuts.values()
    ]
    return [name, *shown]


def medians(found: Mapping[str, Mapping[str, Cut | str]], policies: Sequence[str]) -> list[str]:
    """Medians over the models that all of these policies can cut, as text."""
    whole = [cuts for cuts in found.values() if all(isinstance(cuts[policy], Cut) for policy in policies)]

    def over_models(policy: str, of: Callable[[list[float]], float]) -> float:
        return statistics.median(each.balance(of) for cuts in whole if isinstance(each := cuts[policy], Cut))

    shown = [
        f"{over_models(policy, statistics.median):.3f} ({over_models(policy, min):.3f})" if whole else "-"
        for policy in policies
    ]
    return [f"median of {len(whole)}", *shown]


def wins(found: Mapping[str, Mapping[str, Cut | str]], one: str, other: str) -> str:
    """How often the stages by one policy are better balanced than by another, by medians, as text."""
    pairs = [(cuts[one], cuts[other]) for cuts in found.values()]
    times = [
        (a.balance(statistics.median), b.balance(statistics.median))
        for a, b in pairs
        if isinstance(a, Cut) and isinstance(b, Cut)
    ]
    better, ratios = sum(a < b for a, b in times), [a / b for a, b in times] or [math.nan]
    return (
        f"{one} is better balanced than {other} on {better} of {len(times)} models, "
        f"by the median ratio {statistics.median(ratios):.3f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="patterns of models' names; all if none")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), metavar="TEXT")
    options = parser.parse_args()
    found: dict[str, dict[str, Cut | str]] = {}
    with silence(), Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        for name, model in models(options.names):
            bar.update(task, description=name)
            try:
                found[name] = measured(model, options.policies, options.stages, options.rounds)
            except (
                Exception
            ) as error:  # any model's code runs here, and the others are wanted whatever happens
                print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
    table = Table("costliest / mean stage: of medians (of least times)", *options.policies)
    for name, cuts in found.items():
        if any(isinstance(each, Cut) for each in cuts.values()):
            table.add_row(*row(name, cuts))
    table.add_section()
    table.add_row(*medians(found, options.policies))
    console = Console(width=160)
    console.print(table)
    for name in [name for name in found if name == "resnet20"]:
        for policy, each in found[name].items():
            if isinstance(each, Cut):
                times = ", ".join(f"{1e3 * t:.1f}" for t in each.stage_times(statistics.median))
                console.print(f"{name}, {policy}: stages of {times} ms")
    for one, other in itertools.pairwise(options.policies):
        console.print(wins(found, other, one))


if __name__ == "__main__":
    main()
