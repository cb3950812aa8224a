"""What each of two processes does with one model in data parallel, to be run with `torch.multiprocessing`."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.equality import assert_same
from tests.everyday import grads_of, learned, net, pair, rows

WORLD = 2


def train(rank, store, results):
    """Three steps on rows of its own; leaves what it found in a file of its own."""
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    try:
        _exact(rank)
        torch.save(_learning(rank), f"{results}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _exact(rank):
    """Under oracle the gradients are those of the plain model in data parallel."""
    both = [DistributedDataParallel(each) for each in (net(), pair()[1])]
    for each in both:
        _step(each, rank, 0, update=False)
    plain, ours = (each.module for each in both)
    assert_same(grads_of(ours), grads_of(plain), tolerance=1e-10)


def _learning(rank):
    cut = learned()
    wrapped = DistributedDataParallel(cut)
    for step in range(3):
        _step(wrapped, rank, step)
    return {"state": dict(cut.state_dict()), "gradients": grads_of(cut)}


def _step(model, rank, step, update=True):
    model.zero_grad()
    model(rows(seed=10 * rank + step)).square().mean().backward()
    if update:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
