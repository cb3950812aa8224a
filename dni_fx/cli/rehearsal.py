"""What a dry run says of the files that it leaves unwritten."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer
from torch import Tensor, nn

from dni_fx import verbs
from dni_fx.decoupled import Decoupled
from dni_fx.saving import inference_program
from passes.bytes import show_bytes


def check_saved(cut: Decoupled) -> int:
    """Do all that saving does but for the file; about how many bytes it would have.

    Raises:
        ExportError, FileError: the model cannot be saved.
    """
    inference_program(cut, verbs.example_of(cut, None))
    return bytes_of(cut)


def bytes_of(model: nn.Module) -> int:
    """The bytes of a model's parameters and buffers; what shares memory counts once."""
    return memory_of([*model.parameters(), *model.buffers()])


def memory_of(tensors: Iterable[Tensor]) -> int:
    """The bytes of some tensors; what shares memory counts once."""
    found = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(found.values())


@contextmanager
def beside(path: Path) -> Generator[Path]:
    """A path of the same name in a folder beside a file, which is gone with all in it afterwards."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name


def say_unwritten(files: Mapping[Path, int | None], about: bool = False) -> None:
    """Print what would have been written, each file with its bytes where they are known."""
    for path, size in files.items():
        known = "" if size is None else f", {'about ' if about else ''}{show_bytes(size)}"
        typer.echo(f"would write {path}{known}")
