"""What the boundaries in an ONNX file cost who runs it: nothing, since onnxruntime removes them.

    python -m tests.benchmarks.onnx_latency [--nets mlp conv gpt] [--stages 4] [--rounds 300] [--json FILE]

Each net is exported twice: as it is, by torch alone, and cut, by dni_fx with a node for each boundary. Nodes
are counted in the files and after onnxruntime's own optimization. Both run in turns on one input and one
thread; each round begins with the other one. Times are the clock's, in ms, medians and minima over all
rounds; ratios are cut to uncut. The first tenth of the rounds does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import dni_fx
from tests.benchmarks.learning.nets import GPT
from tests.silence import silence


def mlp() -> tuple[nn.Module, Tensor]:
    """Eight layers of 512 and their ReLUs."""
    layers = (layer for _ in range(8) for layer in (nn.Linear(512, 512), nn.ReLU()))
    return nn.Sequential(*layers, nn.Linear(512, 10)), torch.randn(32, 512)


def conv() -> tuple[nn.Module, Tensor]:
    """Six convolutions with batch norm and ReLU on images of 32 by 32."""
    net, before = nn.Sequential(), 3
    for width in (32, 32, 64, 64, 96, 96):
        layers = nn.Conv2d(before, width, 3, 1 + (width > before > 3), padding=1), nn.BatchNorm2d(width)
        net.append(nn.Sequential(*layers, nn.ReLU()))
        before = width
    return nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10)), torch.randn(
        8, 3, 32, 32
    )


def gpt() -> tuple[nn.Module, Tensor]:
    """Six blocks of width 128 on 64 characters."""
    return GPT(64, 64, 6, 128), torch.randint(64, (8, 64))


NETS: Mapping[str, Callable[[], tuple[nn.Module, Tensor]]] = {"mlp": mlp, "conv": conv, "gpt": gpt}


@dataclass(frozen=True)
class Found:
    """What was found of one net; pairs are of the uncut and the cut file, times in seconds."""

    net: str
    interfaces: int
    in_file: tuple[int, int]
    optimized: tuple[int, int]
    median: tuple[float, float]
    least: tuple[float, float]


def files(name: str, stages: int, folder: Path) -> tuple[Path, Path, Tensor, int]:
    """The uncut and the cut file of a net, its input, and how many boundaries the second shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x = NETS[name]()
    uncut, cut = folder / "uncut.onnx", folder / "cut.onnx"
    plan = f"balanced:stages={stages}"
    with silence():
        written = dni_fx.export(dni_fx.decouple(net, (x,), plan=plan), cut)
        program = torch.export.export(net.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.onnx.export(program, dynamo=True, verbose=False, external_data=False, f=str(uncut))
    return uncut, cut, x, len(written.interfaces)


def session_of(path: Path) -> tuple[onnxruntime.InferenceSession, int]:
    """A session for a file, and how many nodes onnxruntime has left in it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # that an optimized file is for this machine alone
    optimized = path.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, len(onnx.load(optimized).graph.node)


def measure(name: str, stages: int, rounds: int) -> Found:
    """Export a net twice and run both in turns."""
    with tempfile.TemporaryDirectory() as folder:
        *paths, x, interfaces = files(name, stages, Path(folder))
        in_file = [len(onnx.load(path).graph.node) for path in paths]
        sessions, optimized = zip(*map(session_of, paths), strict=True)
        feeds = [{session.get_inputs()[0].name: x.numpy()} for session in sessions]
        times: list[list[float]] = [[], []]
        for at in range(rounds):
            for which in (at % 2, 1 - at % 2):
                start = time.perf_counter()
                sessions[which].run(None, feeds[which])
                times[which].append(time.perf_counter() - start)
    counted = [each[rounds // 10 :] for each in times]
    return Found(
        name,
        interfaces,
        _pair(in_file),
        _pair(optimized),
        _pair(map(statistics.median, counted)),
        _pair(map(min, counted)),
    )


def table_of(found: list[Found]) -> Table:
    """A line for each net."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("net")
    for head in ("interfaces", "nodes", "optimized", "median ms", "ratio", "least ms", "ratio"):
        table.add_column(head, justify="right")
    for each in found:
        cells = [f"{a} / {b}" for a, b in (each.in_file, each.optimized)]
        for a, b in (each.median, each.least):
            cells += [f"{1e3 * a:.3f} / {1e3 * b:.3f}", f"{b / a:.3f}"]
        table.add_row(each.net, str(each.interfaces), *cells)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = [measure(name, options.stages, options.rounds) for name in options.nets]
    Console(width=120).print(table_of(found), "Pairs are uncut / cut.", sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", "utf-8")


def _pair(values: Any) -> tuple[Any, Any]:
    first, second = values
    return first, second


if __name__ == "__main__":
    main()
