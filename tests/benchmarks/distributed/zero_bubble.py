"""The schedules of torch that compute gradients of parameters where others wait: two stages on each rank."""

from __future__ import annotations

import copy
import itertools
import time
import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleInterleavedZeroBubble, ScheduleZBVZeroBubble

from tests.benchmarks.distributed.nets import Task
from tests.benchmarks.distributed.way import Way, WayError, adam

ZeroBubble = type[ScheduleInterleavedZeroBubble] | type[ScheduleZBVZeroBubble]
_TIMED = 5


def zero_bubble(kind: ZeroBubble, micro: int, task: Task) -> Way:
    """A step of two stages on each rank, which have been cut so that all ranks have as equal work as can be.

    Raises:
        WayError: there are fewer blocks than stages.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    blocks, homes = task.blocks(), homes_of(kind, ranks)
    if len(blocks) < len(homes):
        raise WayError(f"{len(homes)} stages cannot be made of {len(blocks)} blocks")
    ends = [-1, *fair_cuts(_seconds(blocks, task), homes), len(blocks) - 1]
    mine = [at for at, home in enumerate(homes) if home == rank]
    parts = [nn.Sequential(*blocks[ends[at] + 1 : ends[at + 1] + 1]) for at in mine]
    both = zip(parts, mine, strict=True)
    stages = [PipelineStage(part, at, len(homes), torch.device("cpu")) for part, at in both]
    schedule, whole = kind(stages, micro, loss_fn=task.loss), nn.ModuleList(parts)
    optimizer = adam(whole.parameters())

    def step(x: Tensor, y: Tensor) -> float | None:
        optimizer.zero_grad()
        losses: list[Tensor] = []
        is_last = len(homes) - 1 in mine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule.step(*([x] if 0 in mine else []), **({"target": y, "losses": losses} if is_last else {}))
        optimizer.step()
        return float(torch.stack(losses).mean().detach()) if losses else None

    return Way(whole, step)


def homes_of(kind: ZeroBubble, ranks: int) -> list[int]:
    """The rank of each stage: there and back in a V, or over and over."""
    there = list(range(ranks))
    return there + there[::-1] if kind is ScheduleZBVZeroBubble else there + there


def fair_cuts(seconds: Sequence[float], homes: Sequence[int]) -> tuple[int, ...]:
    """The last blocks of all stages but the last, so that the rank with most to do has least. O(all cuts)."""

    def worst(cuts: tuple[int, ...]) -> tuple[float, float]:
        ends = [-1, *cuts, len(seconds) - 1]
        stages = [sum(seconds[a + 1 : b + 1]) for a, b in itertools.pairwise(ends)]
        both = list(zip(stages, homes, strict=True))
        return max(sum(cost for cost, home in both if home == rank) for rank in set(homes)), max(stages)

    return min(itertools.combinations(range(len(seconds) - 1), len(homes) - 1), key=worst)


def _seconds(blocks: Sequence[nn.Module], task: Task) -> list[float]:
    """The least seconds of each block, forward and backward, as the first rank has measured them."""
    value, _ = task.batch(task.size)
    found: list[float] = []
    for block in copy.deepcopy(blocks):
        times: list[float] = []
        for _ in range(_TIMED):
            begin = time.perf_counter()
            made = block(value.detach().requires_grad_(value.is_floating_point()))
            made.sum().backward()
            times.append(time.perf_counter() - begin)
        value = made.detach()
        found.append(min(times))
    told = torch.tensor(found, dtype=torch.float64)
    dist.broadcast(told, 0)
    return told.tolist()
