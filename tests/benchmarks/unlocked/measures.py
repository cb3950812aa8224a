"""What is measured of a way to train a net: memory, time of a step, and the loss it reaches in a time."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.learning.data import Batch
from tests.benchmarks.learning.runs import loss_of
from tests.benchmarks.unlocked.meters import Timeline, by_allocator, by_process, storages
from tests.benchmarks.unlocked.settings import Setting
from tests.benchmarks.unlocked.ways import Trainer, Way, held

WARM = 2
"""Steps of each net that count for no time: code is compiled in them, and optimizers get their state."""
CYCLE = 8
"""Steps of which the one that takes most memory counts: some of what synthesizers do is not in every step."""
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}

Job = tuple[Setting, Way]


@dataclass(frozen=True)
class Memory:
    """Bytes of a step beyond weights, buffers, optimizers' state and the batch.

    `live` is the most that tensors hold at once, gradients of weights too; `activations` is the same without
    the gradients of weights, and None for code that is compiled. `allocator` is the most that is taken from
    the allocator, and `process` by how much the process grows. `kept` are weights, buffers and states of
    optimizers, and `cutting` is by how much the process grows while the net is captured and cut.
    """

    live: int
    activations: int | None
    allocator: int
    process: int
    kept: int
    cutting: int
    peak: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass
class Learned:
    """Seconds of each step by both clocks, and `(seconds, validation loss)` as the net was judged."""

    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CLOCKS})
    judged: list[tuple[float, float]] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """What it reached."""
        return self.judged[-1][1]


class Run:
    """A net on its way, with its batches; what it does follows from the job alone."""

    def __init__(self, job: Job) -> None:
        setting, self.way = job
        self.setting = setting
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batches = self._placed(setting.batches())
        torch.manual_seed(0)
        self.net = setting.build().to(self.device)
        x, _ = next(self._placed(setting.batches()))
        self.trainer = self._started(x)
        self.learned = Learned()

    @functools.cached_property
    def kept(self) -> int:
        """Bytes of weights, buffers and optimizers' states; each storage once."""
        sizes = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in held(self.trainer)
        }
        return sum(sizes.values())

    def forget(self) -> None:
        """Let the gradients of the last step go."""
        for optimizer in self.trainer.optimizers:
            optimizer.zero_grad()

    def cycle(self, batch: Batch) -> None:
        """Some steps on one batch, each with the gradients of its own alone."""
        for _ in range(CYCLE):
            self.trainer.step(*batch)
            self.forget()

    def timed(self) -> None:
        """One step on the next batch, which takes no time to make."""
        batch = next(self.batches)
        self._synchronize()
        before = {name: clock() for name, clock in CLOCKS.items()}
        self.trainer.step(*batch)
        self._synchronize()
        for name, clock in CLOCKS.items():
            self.learned.times[name].append(clock() - before[name])

    @torch.no_grad()
    def judge(self, seconds: float) -> None:
        """Note the loss on what the net does not learn."""
        net: nn.Module = self.trainer.net.eval()
        losses, count = 0.0, 0
        for batch in self._placed(self.setting.load().held_out()):
            for x, y in zip(*(each.split(self.setting.batch) for each in batch), strict=True):
                losses += float(loss_of(net(x), y)) * y.numel()
                count += y.numel()
        net.train()
        self.learned.judged.append((seconds, losses / count))

    def _started(self, x: Tensor) -> Trainer:
        return self.way.start(self.net, x, self.setting.load().classes)

    def _placed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return ((x.to(self.device), y.to(self.device)) for x, y in batches)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def memory_of(setting: Setting, way: Way) -> Memory:
    """What one step takes, when all is compiled and every optimizer has its state."""
    made: list[Run] = []
    setting.load()
    cutting = by_process(lambda: made.append(Run((setting, way))))
    (run,) = made
    batch = next(run.batches)
    for _ in range(WARM):
        run.trainer.step(*batch)
    run.forget()
    process = by_process(lambda: run.cycle(batch))
    allocator = by_allocator(lambda: run.cycle(batch))
    if (
        way.name == "budget" or run.device.type == "cuda"
    ):  # what sees every operator sees none in compiled code
        return Memory(allocator, None, allocator, process, run.kept, cutting)
    live, activations, peak = _seen(run, batch)
    return Memory(live, activations, allocator, process, run.kept, cutting, peak[:12])


def live_of(setting: Setting, way: Way) -> int:
    """The most bytes alive in a step, as `Memory.live`."""
    run = Run((setting, way))
    batch = next(run.batches)
    for _ in range(WARM):
        run.trainer.step(*batch)
    run.forget()
    if way.name == "budget" or run.device.type == "cuda":
        return by_allocator(lambda: run.cycle(batch))
    return _seen(run, batch)[0]


def _seen(run: Run, batch: Batch) -> tuple[int, int, list[tuple[str, int, int]]]:
    gradients: set[Any] = set()

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        every = (p.grad for group in optimizer.param_groups for p in group["params"])
        gradients.update(storages(gradient for gradient in every if gradient is not None))

    hooks = [optimizer.register_step_pre_hook(note) for optimizer in run.trainer.optimizers]
    with Timeline(list(held(run.trainer)), *batch) as seen:
        run.cycle(batch)
    for hook in hooks:
        hook.remove()
    return seen.most, seen.without(gradients), seen.at_peak()


def trained(jobs: Sequence[Job], seconds: float, clock: str = "wall", points: int = 1) -> list[Learned]:
    """Train all nets in turns, each round beginning with another one, until each has used up its seconds.

    Whoever was faster has taken more steps by then. Each is judged after every part of its time.
    """
    runs = [Run(job) for job in jobs]
    for run in runs:
        for _ in range(WARM):
            run.trainer.step(*next(run.batches))
    used = [0.0] * len(runs)
    for number in itertools.count():
        active = [at for at in range(len(runs)) if used[at] < seconds]
        if not active:
            return [run.learned for run in runs]
        shift = number % len(active)
        for at in active[shift:] + active[:shift]:
            runs[at].timed()
            used[at] += runs[at].learned.times[clock][-1]
            if used[at] >= seconds * (len(runs[at].learned.judged) + 1) / points:
                runs[at].judge(used[at])
    raise AssertionError
