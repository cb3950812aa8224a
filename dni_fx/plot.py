"""A training as a plot, in a file."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dni_fx.errors import DniError
from dni_fx.files import write_whole
from dni_fx.history import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
"""What a plot can be written as."""
_STYLE = {"svg.hashsalt": "dni_fx", "svg.fonttype": "path"}
_DPI = 150


def check_plot(path: str | os.PathLike[str]) -> None:
    """Do nothing if a plot can be drawn in the format that the suffix names.

    Raises:
        DniError: the suffix names no format, or matplotlib is not installed.
    """
    place = Path(path)
    if place.suffix.lower() not in FORMATS:
        raise DniError(f"cannot draw {place}: a plot is a {' or '.join(FORMATS)} file.")
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise DniError(
            f"plots are drawn with matplotlib, and {error.name} is not installed: "
            "pip install 'dni-fx[picture]'."
        ) from None


def write_plot(history: Sequence[Record], path: str | os.PathLike[str]) -> None:
    """Draw the loss, and how well the synthesizer of each boundary guessed, over the steps of a training.

    The same history gives the same bytes.

    Raises:
        DniError: the suffix names no format, matplotlib is not installed, or there is no step.
        FileError: the path cannot be written.
    """
    check_plot(path)
    if not history:
        raise DniError(f"cannot draw {path}: there is no step to show.")
    from matplotlib import style  # an extra

    from dni_fx.curves import figure_of

    kind = Path(path).suffix.lower().removeprefix(".")
    with style.context(["default", _STYLE]), io.BytesIO() as file:
        figure: Figure = figure_of(history)
        nothing = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(file, format=kind, dpi=_DPI if kind == "png" else 72, metadata=nothing)
        data = file.getvalue()
    write_whole(Path(path), data)
