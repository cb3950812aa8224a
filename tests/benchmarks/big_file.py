"""The most memory that commands take for a file with many weights, beside the size of the file.

    python -m tests.benchmarks.big_file [--bytes 1GiB] [--commands inspect export] [--json FILE]

A chain of wide layers is exported to a file; then each command runs in a process of its own, and the
kernel tells the most memory that was resident in it. `beyond` is that without what the same program takes
for a small file, and `times` is it as a part of the file's weights: 1 is the weights held once. Synthesizers
are `zero`, so that the weights are all there is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from passes.bytes import parse_bytes, show_bytes

LAYERS = 16
_SMALL = 2**16
_CUT = "--plan balanced:stages=4 --synthesizer zero"
COMMANDS = {
    "inspect": "inspect plain.pt2",
    "decouple": f"decouple plain.pt2 {_CUT} -o cut.pt2",
    "inspect cut": "inspect cut.pt2",
    "verify": "verify cut.pt2",
    "recouple .pt2": "recouple cut.pt2 -o back.pt2",
    "recouple .safetensors": "recouple cut.pt2 -o back.safetensors",
    "recouple .pt": "recouple cut.pt2 -o back.pt",
    "export": "export cut.pt2 -o model.onnx",
    "diff": "diff cut.pt2 back.safetensors",
}
"""What is measured, in an order in which each command finds its file."""


@dataclass(frozen=True)
class Peak:
    """The most resident memory of one command, and of the same on a small file, in bytes."""

    command: str
    peak: int
    small: int
    weights: int

    @property
    def beyond(self) -> int:
        """What the weights are to blame for."""
        return self.peak - self.small

    @property
    def times(self) -> float:
        """How often the weights were held at once."""
        return self.beyond / self.weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bytes", type=parse_bytes, default=parse_bytes("1GiB"))
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    print(f"{'command':24}{'weights':>10}{'peak':>10}{'beyond':>10}{'times':>7}")
    found: list[Peak] = []
    for each in peaks(options.bytes, options.commands):
        found.append(each)
        shown = (show_bytes(size) for size in (each.weights, each.peak, each.beyond))
        print(f"{each.command:24}{''.join(f'{size:>10}' for size in shown)}{each.times:7.2f}", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps([asdict(each) | {"times": each.times} for each in found], indent=1)
        )


def peaks(size: int, commands: Sequence[str] = tuple(COMMANDS)) -> Iterator[Peak]:
    """The peak of each command on a file of so many bytes of weights."""
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as big:
        write_apart(Path(small), _SMALL)
        weights = write_apart(Path(big), size)
        for name in COMMANDS if "export" in commands else [n for n in COMMANDS if n != "export"]:
            low, high = (peak_of(COMMANDS[name], Path(folder)) for folder in (small, big))
            if name in commands:
                yield Peak(name, high, low, weights)


def write_apart(folder: Path, size: int) -> int:
    """Like `write_plain`, in a process of its own: to the kernel a child is as large as its parent was."""
    code = "from pathlib import Path; from tests.benchmarks.big_file import write_plain; "
    code += f"print(write_plain(Path({str(folder)!r}), {size}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=_environment())
    return int(done.stdout)


def write_plain(folder: Path, size: int) -> int:
    """Write a chain of layers as `torch.export.save` does; returns the bytes of its weights."""
    width = max(1, int((size / (4 * LAYERS)) ** 0.5))
    layers = [each for _ in range(LAYERS) for each in (nn.Linear(width, width, bias=False), nn.Tanh())]
    model = nn.Sequential(*layers)
    torch.export.save(torch.export.export(model, (torch.ones(2, width),)), folder / "plain.pt2")
    return sum(each.nbytes for each in model.parameters())


def peak_of(command: str, folder: Path) -> int:
    """The most bytes that were resident while a command ran in a folder.

    Raises:
        RuntimeError: it failed.
    """
    line = [sys.executable, "-m", "dni_fx", *shlex.split(command)]
    with subprocess.Popen(line, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"dni-fx {command} exited {process.returncode}.")
    return usage.ru_maxrss * 1024


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


if __name__ == "__main__":
    main()
