"""Whether a process in which torch cannot be imported learns digits as well as PyTorch does.

python -m tests.benchmarks.device.digits --data FILE.npz --epochs 3
"""

from __future__ import annotations

import argparse
import copy
import itertools
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni_fx
from tests.benchmarks.learning.data import Batch, images
from tests.benchmarks.learning.nets import fcn

BATCH, WIDTH, RATE = 256, 256, 1e-3
PLAN = "at:after=hidden1+hidden2"

ON_DEVICE = """
import sys
sys.modules["torch"] = None
import numpy as np
import dni_fx.device
folder, data, mode = sys.argv[1:]
known = np.load(data)
session = dni_fx.device.open(folder, mode=mode)
for x, y in zip(known["x"], known["y"]):
    session.step(x, y)
parts = [np.array_split(known[name], 10) for name in ("held_x", "held_y")]
judged = session.evaluate(zip(*parts))
print(100 * (1 - judged["accuracy"]))
"""


def on_device(folder: Path, data: Path, mode: str) -> float:
    """The error in percent of a process without torch."""
    asked = [sys.executable, "-c", ON_DEVICE, str(folder), str(data), mode]
    return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def by_local(cut: dni_fx.Decoupled, batches: list[Batch]) -> nn.Module:
    """The model that the runtime `local` has trained."""
    trainer = dni_fx.Trainer(
        cut,
        loss=F.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=RATE),
        runtime="local",
        labels_as_context=True,
    )
    for batch in batches:
        trainer.step(batch)
    return cut


def by_backprop(cut: dni_fx.Decoupled, batches: list[Batch]) -> nn.Module:
    """The model that plain backpropagation has trained."""
    model = dni_fx.recouple(cut).train()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


MODES = {"decoupled": by_local, "exact": by_backprop}
"""What a device does, and what does the same with PyTorch."""


@torch.no_grad()
def wrong(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The error in percent of a model."""
    return 100 * float((model.eval()(x).argmax(1) != y).float().mean())


def main() -> None:
    """Print one line for each mode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    torch.manual_seed(0)
    known = images(asked.data)
    batches = list(itertools.islice(known.batches(BATCH, 0), known.epoch(BATCH) * asked.epochs))
    held_x, held_y = (torch.cat(each) for each in zip(*known.held_out(), strict=True))
    (x, y), *_ = batches
    cut = dni_fx.decouple(
        fcn(known, 3, WIDTH), (x,), plan=PLAN, synthesizer="critic", interface="dni:guard=0"
    )
    with tempfile.TemporaryDirectory() as made:
        folder, data = Path(made, "net"), Path(made, "data.npz")
        stacked = (torch.stack(each).numpy() for each in zip(*batches, strict=True))
        names = ("x", "y", "held_x", "held_y")
        np.savez(data, **dict(zip(names, (*stacked, held_x.numpy(), held_y.numpy()), strict=True)))
        options = {"rate": RATE, "labels_as_context": True}
        dni_fx.export_training(cut, folder, inputs=(x,), targets=y, loss=F.cross_entropy, **options)
        start = copy.deepcopy(cut.state_dict())
        for mode, train in MODES.items():
            cut.load_state_dict(start)
            there, here = on_device(folder, data, mode), wrong(train(cut, batches), held_x, held_y)
            print(f"{mode:10} {there:.2f} % wrong on the device, {here:.2f} % by PyTorch", flush=True)


if __name__ == "__main__":
    main()
