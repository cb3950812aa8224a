"""Ways to train one net on all ranks, each a function that takes one step on this rank."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

import dni_fx
from tests.benchmarks.distributed.nets import Task
from tests.benchmarks.distributed.way import Way, adam
from tests.benchmarks.distributed.zero_bubble import zero_bubble


def one_process(task: Task) -> Way:
    """Plain backprop on rank 0; the others do nothing."""
    net = nn.Sequential(*task.blocks())
    optimizer = adam(net.parameters())

    def step(x: Tensor, y: Tensor) -> float | None:
        return _plain_step(net, optimizer, task, x, y) if dist.get_rank() == 0 else None

    return Way(net if dist.get_rank() == 0 else nn.Identity(), step)


def data_parallel(task: Task) -> Way:
    """The whole net on each rank, which trains on its share of the batch."""
    net = DistributedDataParallel(nn.Sequential(*task.blocks()))
    optimizer, rank, ranks = adam(net.parameters()), dist.get_rank(), dist.get_world_size()

    def step(x: Tensor, y: Tensor) -> float | None:
        return _plain_step(net, optimizer, task, x.chunk(ranks)[rank], y.chunk(ranks)[rank])

    return Way(net.module if rank == 0 else nn.Identity(), step)


def pipeline(kind: type[Schedule1F1B] | type[ScheduleGPipe], micro: int, task: Task) -> Way:
    """A schedule of torch.distributed.pipelining."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    part = task.part(rank, ranks)
    stage = PipelineStage(part, rank, ranks, torch.device("cpu"))
    schedule, optimizer = kind(stage, micro, loss_fn=task.loss), adam(part.parameters())

    def step(x: Tensor, y: Tensor) -> float | None:
        optimizer.zero_grad()
        losses: list[Tensor] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if rank == 0:
                schedule.step(x)
            elif rank == ranks - 1:
                schedule.step(target=y, losses=losses)
            else:
                schedule.step()
        optimizer.step()
        return float(torch.stack(losses).mean().detach()) if losses else None

    return Way(part, step)


def decoupled(runtime: str, synthesizer: str, labels: bool, micro: int, task: Task) -> Way:
    """The stages of a cut model, by a runtime of ours; a batch may go through in so many parts.

    Synthesizers learn from one part of each batch.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    net, (x, _) = nn.Sequential(*task.blocks()), task.batch(task.size // micro)
    plan = "at:after=" + "+".join(map(str, task.cuts(ranks)))
    chosen = synthesizer or task.synthesizer
    cut = dni_fx.decouple(net, (x,), plan=plan, synthesizer=chosen, interface=f"dni:every={micro}")
    options = {"optimizer": adam, "runtime": runtime, "labels_as_context": labels, "accumulate": micro}
    trainer = dni_fx.Trainer(cut, loss=task.loss, **options)

    def step(x: Tensor, y: Tensor) -> float | None:
        parts = zip(x.chunk(micro), y.chunk(micro), strict=True)
        loss = sum(float(trainer.step(part).loss) for part in parts) / micro
        return None if math.isnan(loss) else loss

    ends = [-1, *task.cuts(ranks), len(net) - 1]
    return Way(net[ends[rank] + 1 : ends[rank + 1] + 1], step, trainer.worker.settle)


def bound(task: Task) -> Way:
    """Each rank trains its own part alone, on a value and a gradient that are always the same."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    value, y = task.batch(task.size)
    for each in range(rank):
        with torch.no_grad():
            value = task.part(each, ranks)(value)
    part = task.part(rank, ranks)
    optimizer, is_last = adam(part.parameters()), rank == ranks - 1
    gradient = torch.randn_like(copy.deepcopy(part)(value)) / value.shape[0]

    def step(x: Tensor, _: Tensor) -> float | None:
        optimizer.zero_grad()
        given = value.detach().requires_grad_(value.is_floating_point() and rank > 0)
        made = part(given)
        task.loss(made, y).backward() if is_last else made.backward(gradient)
        optimizer.step()
        return None

    return Way(part, step)


def _plain_step(net: nn.Module, optimizer: Adam, task: Task, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = task.loss(net(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def ways(micros: list[int], lag: int, ranks: int) -> dict[str, Callable[[Task], Way]]:
    """All of them by name."""
    runtime = f"distributed:lag={lag}"
    found: dict[str, Callable[[Task], Way]] = {"one process": one_process, "ddp": data_parallel}
    for micro in micros:
        found[f"gpipe {micro}"] = partial(pipeline, ScheduleGPipe, micro)
        if micro >= ranks:  # else torch refuses it, and it would be the one before
            found[f"1f1b {micro}"] = partial(pipeline, Schedule1F1B, micro)
            found[f"zb {micro}"] = partial(zero_bubble, ScheduleInterleavedZeroBubble, micro)
            found[f"zbv {micro}"] = partial(zero_bubble, ScheduleZBVZeroBubble, micro)
        found[f"dni {micro}"] = partial(decoupled, runtime, "", False, micro)
    found["dni labels"] = partial(decoupled, runtime, "auto", True, 1)
    found["dni delayed"] = partial(decoupled, runtime, "delayed", False, 1)
    found["dni zero"] = partial(decoupled, runtime, "zero", False, 1)
    found["bound"] = bound
    return found
