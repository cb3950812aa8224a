"""What an exporter is."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch.export import ExportedProgram

from passes import Named
from passes.words import counted


@dataclass(frozen=True)
class Written:
    """What an exporter wrote. `str` says it in a line.

    `path` is what was asked for: a file, or a folder. `files` are all the files written; the first is `path`
    itself, or what tells of the others in it. `interfaces` are the names of the boundaries that the
    file shows, one for each of its interface nodes. `difference` is the largest one between an output of
    the file and PyTorch's, 0.0 where all are equal, None where nobody compared them.
    """

    path: Path
    files: tuple[Path, ...]
    nodes: int
    interfaces: tuple[str, ...]
    opset: int
    dynamic: bool
    difference: float | None

    def __str__(self) -> str:
        shown = f"interfaces {', '.join(self.interfaces)}" if self.interfaces else "no interfaces"
        sizes = "input sizes vary" if self.dynamic else "input sizes are fixed to the example's"
        checked = "not compared" if self.difference is None else f"within {self.difference:.1e} of PyTorch"
        return f"{self.path}: {counted(self.nodes, 'node')}, {shown}, opset {self.opset}, {sizes}, {checked}"


@dataclass(frozen=True)
class Exporter(Named):
    """How to write a program to a file.

    `suffixes` are the endings that the command line asks of the file's name; none where any name will do.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def check_place(self, path: Path) -> None:
        """Do nothing if there can be written to this path, so that no one waits for work that is then lost.

        Raises:
            FileError: it cannot.
        """

    @abc.abstractmethod
    def write(self, program: ExportedProgram, path: Path) -> Written:
        """Write an inference program whose boundaries are calls of `dni_fx::interface`.

        The program is left as it was. `path` holds all that is new, or what it held before.

        Raises:
            ExportError: the program cannot be written in this format, or the file disagrees with it.
            FileError: `path` cannot be written.
        """
