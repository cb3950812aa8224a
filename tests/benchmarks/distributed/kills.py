"""Random processes killed at random moments of a run, which goes on from its last checkpoint each time.

python -m tests.benchmarks.distributed.kills --kills 30
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dni_fx
from dni_fx.training.checkpoint import is_there, read_checkpoint
from tests.processes import run_ranks

WIDTH, CLASSES, SAMPLES, BATCH = 32, 5, 2000, 20


def trained(rank: int, path: str, epochs: int, lag: int, doomed: int, after: float) -> float:
    """Train on this rank, which is killed after so many seconds if it is the doomed one; the last loss."""
    if rank == doomed:
        threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    net = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    x = torch.randn(SAMPLES, WIDTH)
    y = (x @ torch.randn(WIDTH, CLASSES)).argmax(1)
    loader = DataLoader(TensorDataset(x, y), BATCH, shuffle=True)
    cut = dni_fx.decouple(net, (x[:BATCH],), plan="balanced:stages=3", synthesizer="critic")
    runtime = f"distributed:lag={lag},patience=10"
    trainer = dni_fx.Trainer(cut, loss=F.cross_entropy, runtime=runtime, labels_as_context=True)
    report = trainer.fit(loader, epochs, checkpoint=path, every=10, resume=True, progress=False)
    return report.epochs[-1].loss


def main() -> None:
    """Kill, look at what is left, go on, and compare the ends with those of runs that nobody disturbed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calm = [_run(asked, Path(folder, f"calm {number}"))[0] for number in range(3)]
        print(f"nobody disturbed: losses {', '.join(f'{each:.4f}' for each in calm)}", flush=True)
        killer, ends = Killer(asked), list[float]()
        while killer.kills < asked.kills:
            ends.append(killer.ended(Path(folder, f"run {len(ends)}")))
    print(
        f"{killer.kills} kills, the others ended {killer.slowest:.1f} s later at most; losses of the runs "
        f"that went on: {', '.join(f'{each:.4f}' for each in ends)}"
    )


class Killer:
    """Kills until there have been enough kills; `slowest` is how many seconds the others lived on at most."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.draw = random.Random(asked.seed)
        self.kills = 0
        self.slowest = 0.0

    def ended(self, path: Path) -> float:
        """The loss at the end of one run, however often it was broken off."""
        while self.kills < self.asked.kills:
            told = self._killed(path)
            if all(isinstance(each, float) for each in told):
                return told[0]  # it was over before
        return _run(self.asked, path)[0]

    def _killed(self, path: Path) -> list[float]:
        doomed, after = self.draw.randrange(self.asked.ranks), self.draw.uniform(0.5, 4.0)
        begin = time.monotonic()
        told = _run(self.asked, path, doomed, after)
        if any(isinstance(each, str) for each in told):
            self.kills += 1
            seconds = time.monotonic() - begin - after
            self.slowest = max(self.slowest, seconds)
            _judge(told, doomed)
            steps = read_checkpoint(path)["steps"] if is_there(path) else 0
            print(
                f"kill {self.kills}: rank {doomed} after {after:.1f} s; all had ended {seconds:.1f} s later, "
                f"and the checkpoint is whole, of step {steps:,}",
                flush=True,
            )
        return told


def _run(asked: argparse.Namespace, path: Path, doomed: int = -1, after: float = 0.0) -> list[float]:
    """The loss of each rank at the end, or the text of its error."""
    return run_ranks(trained, asked.ranks, str(path), asked.epochs, asked.lag, doomed, after, seconds=900)


def _judge(told: Sequence[object], doomed: int) -> None:
    """Do nothing if all others have ended with a message that says who is gone."""
    for rank, each in enumerate(told):
        says = (
            f"rank {doomed} is gone",
            "cannot join the other processes within",
        )  # it may not have come yet
        if rank != doomed and not (isinstance(each, str) and any(text in each for text in says)):
            raise SystemExit(f"rank {rank} should say that rank {doomed} is gone, and: {each}")


if __name__ == "__main__":
    main()
