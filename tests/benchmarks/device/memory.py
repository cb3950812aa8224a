"""Peak memory and time of a process that trains a net whose activations are larger than its weights.

PyTorch's backpropagation beside a device that streams stages from disk. Each is a process of its own.

python -m tests.benchmarks.device.memory
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import dni_fx

CLASSES = 10

BY_BACKPROP = """
import json, sys, time
from tests.benchmarks.peak import peak
import torch
import torch.nn.functional as F
from tests.benchmarks.device.memory import net
width, depth, batch, steps = map(int, sys.argv[1:5])
model = net(width, depth)
optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
x, y = torch.randn(batch, width), torch.randint(10, (batch,))
times = []
for _ in range(steps):
    start = time.perf_counter()
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
print(json.dumps([peak() / 2**20, min(times)]))
"""

ON_DEVICE = """
import json, sys, time
from tests.benchmarks.peak import peak
sys.modules["torch"] = None
import numpy as np
import dni_fx.device
width, depth, batch, steps = map(int, sys.argv[1:5])
folder, mode, memory = sys.argv[5:]
session = dni_fx.device.open(folder, mode=mode, memory=int(memory) or None)
x, y = np.random.randn(batch, width).astype(np.float32), np.random.randint(10, size=batch)
times = []
for _ in range(steps):
    start = time.perf_counter()
    session.step(x, y)
    times.append(time.perf_counter() - start)
print(json.dumps([peak() / 2**20, min(times)]))
"""


def net(width: int, depth: int) -> nn.Sequential:
    """So many blocks of three layers, all of one width."""
    torch.manual_seed(0)
    block = [nn.Linear, nn.LayerNorm, nn.GELU]
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [block[0](width, width), block[1](width), block[2]()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def main() -> None:
    """Print MiB and milliseconds a step of each."""
    asked = _asked()
    shape = [str(each) for each in (asked.width, asked.depth, asked.batch, asked.steps)]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "net")
        _write(asked, folder)
        rows = {"PyTorch, backprop": [BY_BACKPROP, *shape]}
        for mode in ("exact", "decoupled"):
            for memory in ("1", "0"):
                how = "streamed" if memory == "1" else "kept"
                rows[f"device, {mode}, {how}"] = [ON_DEVICE, *shape, str(folder), mode, memory]
        first = 0.0
        for row, (code, *more) in rows.items():
            told = subprocess.run(
                [sys.executable, "-c", code, *more], check=True, capture_output=True, text=True
            )
            peak, seconds = json.loads(told.stdout)
            first = first or peak
            part, time = peak / first, 1e3 * seconds
            print(f"{row:28} {peak:8.0f} MiB ({part:.2f}), {time:8.0f} ms a step", flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--stages", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4)
    return parser.parse_args()


def _write(asked: argparse.Namespace, folder: Path) -> None:
    x = torch.randn(8, asked.width)
    cut = dni_fx.decouple(
        net(asked.width, asked.depth), (x,), plan=f"balanced:stages={asked.stages}", synthesizer="linear"
    )
    dni_fx.export_training(
        cut,
        folder,
        inputs=(x,),
        targets=torch.randint(CLASSES, (8,)),
        loss=F.cross_entropy,
        optimizer="momentum",
        rate=0.01,
    )


if __name__ == "__main__":
    main()
