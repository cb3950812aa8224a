"""Whether processes that wait for nobody learn digits as well as one process does.

python -m tests.benchmarks.distributed.digits --data FILE.npz --epochs 10 --seeds 3
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import dni_fx
from tests.benchmarks.learning.data import images
from tests.benchmarks.learning.nets import fcn
from tests.processes import run_ranks

BATCH = 256
WIDTH = 256


def learned(rank: int, runtime: str, synthesizer: str, data: Path | None, epochs: int, seed: int) -> float:
    """The error in percent on what is judged by, after so many epochs."""
    torch.manual_seed(seed)
    known = images(data)
    steps = known.epoch(BATCH)
    net = fcn(known, 6, WIDTH)
    warmup = f"dni:warmup={steps}"
    example = next(known.batches(BATCH, seed))
    plan = "at:after=" + "+".join(f"hidden{number}" for number in range(1, 7))
    cut = dni_fx.decouple(net, (example[0],), plan=plan, synthesizer=synthesizer, interface=warmup)
    trainer = dni_fx.Trainer(
        cut,
        loss=F.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps * epochs),
        runtime=runtime,
        labels_as_context=True,
        metrics={"wrong": lambda scores, y: (scores.argmax(1) != y).float().mean()},
    )
    batches = known.batches(BATCH, seed)
    for _ in range(epochs):
        trainer.fit(list(itertools.islice(batches, steps)), len(trainer.epochs) + 1, progress=False)
    return 100 * trainer.evaluate(known.held_out())["wrong"]


def main() -> None:
    """Print one line for each runtime."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--synthesizer", default="critic")
    asked = parser.parse_args()
    runtimes = {"local:streams=true": 1, f"distributed:lag={asked.lag}": asked.ranks}
    for runtime, ranks in runtimes.items():
        errors: list[float] = []
        for seed in range(asked.seeds):
            facts = runtime, asked.synthesizer, asked.data, asked.epochs, seed
            told = run_ranks(learned, ranks, *facts, seconds=3600)
            if isinstance(told[0], str):
                raise SystemExit(told[0])
            errors.append(told[0])
        mean = sum(errors) / len(errors)
        print(
            f"{runtime:22} {ranks} ranks: {mean:.2f} % wrong ({', '.join(f'{e:.2f}' for e in errors)})",
            flush=True,
        )


if __name__ == "__main__":
    main()
