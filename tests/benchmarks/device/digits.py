"""Whether a process in which torch cannot be imported learns digits as well as PyTorch does, and Node.

python -m tests.benchmarks.device.digits --data FILE.npz --epochs 3 --node
"""

from __future__ import annotations

import argparse
import copy
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import dni_fx
from dni_fx.device import WEB
from tests.benchmarks.learning.data import Batch, images
from tests.benchmarks.learning.nets import fcn
from tests.browsers import NODE, fetch

BATCH, WIDTH, RATE, PARTS = 256, 256, 1e-3, 10
PLAN = "at:after=hidden1+hidden2"

ON_DEVICE = """
import sys
sys.modules["torch"] = None
import numpy as np
import dni_fx.device
from safetensors.numpy import load_file
folder, data, mode = sys.argv[1:]
known = load_file(data)
session = dni_fx.device.open(folder, mode=mode)
for x, y in zip(known["x"], known["y"]):
    session.step(x, y)
judged = session.evaluate(zip(known["held_x"], known["held_y"]))
print(100 * (1 - judged["accuracy"]))
"""

ON_NODE = Path(__file__).with_name("digits.mjs")

Command = Sequence[str | Path]


def commands(packages: Path | None) -> dict[str, Command]:
    """What trains a folder by data in a mode, by what is told it after these words."""
    found: dict[str, Command] = {"Python": [sys.executable, "-c", ON_DEVICE]}
    if packages is not None:
        if problem := fetch(packages, ("onnxruntime-web",)):
            raise SystemExit(problem)
        found["Node"] = [NODE or "node", ON_NODE, packages, WEB / "dni_fx.js"]
    return found


def on_device(command: Command, folder: Path, data: Path, mode: str) -> float:
    """The error in percent of a process without torch."""
    asked = [*map(str, command), str(folder), str(data), mode]
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
    parser.add_argument("--node", action="store_true", help="under Node too, with onnxruntime-web by npm")
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
        folder, data, packages = Path(made, "net"), Path(made, "data.safetensors"), Path(made, "packages")
        packages.mkdir()
        held = [held_x.split(len(held_x) // PARTS), held_y.split(len(held_y) // PARTS)]
        parts = [torch.stack(each) for each in (*zip(*batches, strict=True), *(one[:PARTS] for one in held))]
        save_file(dict(zip(("x", "y", "held_x", "held_y"), parts, strict=True)), data)
        ways = commands(packages if asked.node else None)
        options = {"rate": RATE, "labels_as_context": True}
        dni_fx.export_training(cut, folder, inputs=(x,), targets=y, loss=F.cross_entropy, **options)
        start = copy.deepcopy(cut.state_dict())
        for mode, train in MODES.items():
            cut.load_state_dict(start)
            here = wrong(train(cut, batches), *(part.flatten(0, 1) for part in parts[2:]))
            print(f"{mode:10} {here:.2f} % wrong by PyTorch", flush=True)
            for name, command in ways.items():
                there = on_device(command, folder, data, mode)
                print(f"{mode:10} {there:.2f} % wrong on a device with {name}", flush=True)


if __name__ == "__main__":
    main()
