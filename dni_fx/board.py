"""Training as scalars that TensorBoard shows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dni_fx.errors import DniError, FileError
from dni_fx.history import FIGURES, Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def check_board(folder: Path) -> None:
    """Do nothing if scalars can be written to a folder, as far as can be told without making it.

    Raises:
        DniError: tensorboard is not installed.
        FileError: there is a file in its place.
    """
    _summary_writer()
    if folder.exists() and not folder.is_dir():
        raise FileError(f"cannot write to {folder}: it is a file. Name a folder.")


@contextmanager
def board(folder: Path) -> Generator[Callable[[Record], None]]:
    """Writes each record that it is called with: `loss`, metrics, and `cosine/<boundary>` and the like.

    Raises:
        DniError: tensorboard is not installed.
        FileError: the folder cannot be written.
    """
    check_board(folder)
    make = _summary_writer()
    try:
        writer = make(str(folder))
    except OSError as error:
        raise FileError(f"cannot write to {folder}: {error.strerror or error}.") from None
    try:
        yield partial(_write, writer)
    finally:
        writer.close()


def _write(writer: SummaryWriter, record: Record) -> None:
    figures = {"loss": record.loss, **record.metrics}
    for name, diagnosis in record.boundaries.items():
        figures |= {f"{figure}/{name}": getattr(diagnosis, figure) for figure in FIGURES}
    for tag, value in figures.items():
        writer.add_scalar(tag, value, record.step)


def _summary_writer() -> type[SummaryWriter]:
    """The class that writes for TensorBoard; it is an extra, and takes long to import."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise DniError(
            "scalars are written with tensorboard, which is not installed: pip install 'dni-fx[tensorboard]'."
        ) from None
    return SummaryWriter
