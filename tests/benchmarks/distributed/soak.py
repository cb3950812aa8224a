"""Memory of two processes over a long run of a small net.

python -m tests.benchmarks.distributed.soak --steps 10000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from tests.processes import run_ranks

PAGE = 4096


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


def soaked(rank: int, steps: int, looks: int, lag: int) -> list[int]:
    """Bytes of this process at so many moments of the run, the first after a tenth of the steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    x, y = torch.randn(64, 16), torch.randint(4, (64,))
    cut = dni_fx.decouple(net, (x,), plan="balanced:stages=2", synthesizer="linear")
    found: list[int] = []

    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime=f"distributed:lag={lag}")
    for step in range(steps):
        trainer.step((x, y))
        if step + 1 >= steps // 10 and (step + 1) % (steps // looks) == 0:
            found.append(resident())
    trainer.worker.settle()
    return found


def main() -> None:
    """Print how much memory each rank has on the way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--looks", type=int, default=10)
    parser.add_argument("--lag", type=int, default=4)
    asked = parser.parse_args()
    for rank, found in enumerate(run_ranks(soaked, 2, asked.steps, asked.looks, asked.lag, seconds=3600)):
        if isinstance(found, str):
            raise SystemExit(found)
        row = " ".join(f"{each / 2**20:.1f}" for each in found)
        print(f"rank {rank}: {row} MiB; from the first to the last {(found[-1] - found[0]) / 2**20:+.1f} MiB")


if __name__ == "__main__":
    main()
