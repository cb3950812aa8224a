"""Train one net in the plain loop that a user would write."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.diagnosis import Diagnosis
from tests.benchmarks.learning.data import Batch
from tests.benchmarks.learning.jobs import Job
from tests.benchmarks.learning.records import Point, Run

QUIET = 10.0
"""Seconds between two lines of progress."""


class Watch:
    """Sums up the time of training: of the processor and of the clock, or of the clock alone on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = self.wall = 0.0

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Inside, time counts. On a GPU the beginning and the end wait for the device."""
        start, wall = self._now()
        yield
        end, later = self._now()
        self.seconds, self.wall = self.seconds + end - start, self.wall + later - wall

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter(), time.perf_counter()
        return time.process_time(), time.perf_counter()


class Loop:
    """A net, its optimizer and its batches, all of which follow from the job alone."""

    def __init__(self, job: Job) -> None:
        self.job, self.task = job, job.task
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.data = self.task.data()
        self.batches = self.data.batches(self.task.batch, job.seed)
        torch.manual_seed(job.seed)
        self.net = self.task.net(self.data).to(self.device)
        if self.task.channels_last:
            self.net.to(memory_format=torch.channels_last)
        x, _ = self.placed(next(self.data.batches(self.task.batch, job.seed)))
        with self.precision():  # another precision is another graph
            self.net = job.row.cut(self.net, x, self.task.plan)
        self.optimizer = getattr(torch.optim, self.task.optimizer)(self.net.parameters(), lr=self.task.lr)
        self.watch = Watch(self.device)
        self.done = 0

    def precision(self) -> torch.autocast:
        """What the forward pass is computed in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.task.bf16)

    def placed(self, batch: Batch) -> Batch:
        """A batch where and as the net wants it."""
        x, y = batch
        x = x.to(self.device)
        if self.task.channels_last:
            x = x.to(memory_format=torch.channels_last)
        return x, y.to(self.device)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step of training; returns the loss of the batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.task.rate(self.done) * self.job.row.pace
        self.optimizer.zero_grad()
        with self.precision():
            loss = loss_of(self.net(x, dni_context=y) if self.job.row.labels else self.net(x), y)
        loss.backward()
        if self.task.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.task.clip)
        self.optimizer.step()
        self.done += 1
        return loss.detach()

    def interval(self, steps: int) -> float:
        """So many steps against time; returns the mean loss. On a CPU, making the batches takes none."""
        total = torch.zeros((), device=self.device)
        if self.device.type == "cuda":
            with self.watch.running():
                for _ in range(steps):
                    total += self.step(*self.placed(next(self.batches)))
        else:
            for _ in range(steps):
                batch = self.placed(next(self.batches))
                with self.watch.running():
                    total += self.step(*batch)
        return float(total) / max(steps, 1)

    @torch.no_grad()
    def judged(self, loss: float) -> Point:
        """The point that the run has reached."""
        self.net.eval()
        losses, errors, count = 0.0, 0.0, 0
        for batch in self.data.held_out():
            x, y = self.placed(batch)
            with self.precision():
                outputs = self.net(x)
            losses += float(loss_of(outputs, y)) * y.numel()
            errors += float((outputs.argmax(-1) != y).sum())
            count += y.numel()
        self.net.train()
        return Point(self.done, self.watch.seconds, self.watch.wall, loss, losses / count, errors / count)

    def diagnosed(self) -> dict[str, Diagnosis]:
        """How well each boundary guesses, over a few steps more."""
        if not self.job.row.synthesizer:
            return {}
        found: dict[str, list[Diagnosis]] = defaultdict(list)
        cutting_of(self.net).step.record = True
        for _ in range(self.task.diagnosed):
            self.step(*self.placed(next(self.batches)))
            for name, dni in dni_fx.boundaries(self.net).items():
                found[name] += [] if dni.diagnosis is None else [dni.diagnosis]
        cutting_of(self.net).step.record = False
        return {name: _mean(several) for name, several in found.items() if several}

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether every parameter and buffer is, those of synthesizers too."""
        state = self.net.state_dict().values()
        return all(bool(tensor.isfinite().all()) for tensor in state if tensor.is_floating_point())


def loss_of(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of (batch, classes) or (batch, time, classes), a mean over all labels, in float32."""
    return F.cross_entropy(outputs.float().flatten(0, -2), y.flatten())


def train(job: Job, until: float = 0.0) -> Run:
    """Train for the steps of the task, and on until so many seconds of training are used up.

    Capture and judging take no part in the time. A run whose loss is not finite ends there.
    """
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        loop = Loop(job)
        points = _points(loop, until)
        finite = loop.is_finite() and points[-1].validation < float("inf")
        boundaries = loop.diagnosed()
    said = tuple(dict.fromkeys(str(each.message) for each in heard))
    return Run(job.key, job.task.setting, job.row.name, job.seed, tuple(points), boundaries, finite, said)


def _points(loop: Loop, until: float) -> list[Point]:
    task, points, told = loop.task, [loop.judged(float("nan"))], time.monotonic()
    marks = [round(task.steps * number / task.points) for number in range(1, task.points + 1)]
    length = max(round(task.steps / task.points), 1)
    half = task.steps // 2
    while loop.done < task.steps or loop.watch.seconds < until:
        end = next((mark for mark in marks if mark > loop.done), loop.done + length)
        if task.halfway is not None and loop.done < half < end:
            end = half
        points.append(loop.judged(loop.interval(end - loop.done)))
        if task.halfway is not None and loop.done == half:
            task.halfway(loop.net)
        if not (points[-1].loss < float("inf") and points[-1].validation < float("inf")):
            break
        if time.monotonic() > told + QUIET:
            told = time.monotonic()
            say(f"  {loop.job}: step {loop.done:,} of {task.steps:,}, loss {points[-1].validation:.3f}")
    return points


def attempt(job: Job, until: float = 0.0) -> Run:
    """What `train` finds, or a run that says why it found nothing."""
    try:
        return train(job, until)
    except Exception as error:  # the other runs are wanted whatever happens in this one
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Run(job.key, job.task.setting, job.row.name, job.seed, failed=why)


def say(line: str) -> None:
    """Tell of progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def _mean(several: list[Diagnosis]) -> Diagnosis:
    def mean(of: str) -> float:
        return statistics.fmean(getattr(each, of) for each in several)

    return Diagnosis(
        mean("cosine"), mean("sign"), mean("error"), mean("scale"), mean("mix"), several[-1].locked
    )
