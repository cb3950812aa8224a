"""The processes that a launcher has started, and how this one joins the others."""

from __future__ import annotations

import os
from datetime import timedelta
from multiprocessing.util import Finalize

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from dni_fx.distributed.wire import Wire
from dni_fx.errors import StageError, first_line

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_AT_LEAST = 30.0
_TIMES = 5
"""So many times as long as they may be silent others may come late at the start, and seconds at least."""
_FOREVER = timedelta(days=365)
"""A wait that runs out closes the connection, so who waits too long is told by the wire and not by this."""

_wires: dict[dist.ProcessGroup, Wire] = {}


def joined(patience: float) -> Wire | None:
    """The wire to the other processes, one in the life of this one; None if there are no others.

    The process group is the one there is, or what `torchrun` has told in the environment. A process that is
    silent for `patience` seconds counts as lost; at the start, one that has not come in five times as long.

    Raises:
        StageError: the others cannot be reached.
    """
    if not dist.is_initialized():
        missing = [name for name in _LAUNCHED if name not in os.environ]
        if missing:
            return None
        limit = max(_AT_LEAST, _TIMES * patience)
        try:
            _join(limit)
        except (RuntimeError, ValueError) as error:
            raise StageError(
                f"cannot join the other processes within {limit:.0f} s: {first_line(error)}"
            ) from error
        Finalize(None, _leave, exitpriority=1)  # which the end of a child of multiprocessing runs, too
    world = dist.group.WORLD
    assert isinstance(world, dist.ProcessGroup)
    if dist.get_world_size() == 1:
        return None
    if world not in _wires:
        group = dist.new_group(backend="gloo", timeout=_FOREVER)
        assert isinstance(group, dist.ProcessGroup)
        _wires[world] = Wire(group, patience)
        Finalize(None, _wires[world].close, exitpriority=2)
    return _wires[world]


def _join(limit: float) -> None:
    """Join the group that the environment tells of, in so many seconds.

    On one machine `torchrun` keeps its store when it starts the processes again, and with it the addresses of
    those that are gone: each attempt has keys of its own. Between machines it has a store of its own.
    """
    store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=limit)))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def own_device() -> torch.device:
    """Where this process computes: a GPU of its own where there are some, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
