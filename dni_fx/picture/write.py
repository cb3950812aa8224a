"""A picture of a plan, as a file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import fx

from dni_fx.assembly import training_graph
from dni_fx.errors import DniError
from dni_fx.files import write_whole
from dni_fx.picture.page import page_of
from dni_fx.picture.scene import Scene, scene_of
from dni_fx.picture.titles import with_titles
from dni_fx.program import Program
from passes import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".html")
"""What a picture can be written as."""
_STYLE = {"svg.hashsalt": "dni_fx", "svg.fonttype": "path"}
_DPI, _PIXELS = 160, 20_000


def check_picture(path: str | os.PathLike[str]) -> None:
    """Do nothing if a picture can be drawn in the format that the suffix names.

    Raises:
        DniError: the suffix names no format.
    """
    place = Path(path)
    if place.suffix.lower() not in FORMATS:
        raise DniError(
            f"cannot draw {place}: a picture is a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
        )


def write_picture(
    graph: Program | fx.GraphModule, plan: Plan, path: str | os.PathLike[str], *, cost: str = "flops"
) -> None:
    """Draw a plan on a captured program, or on its annotated graph, in the format that the suffix names.

    An `.html` is the picture with a table of the stages and their modules, and needs nothing but itself.
    `cost` is what the heat and the balance speak of: `flops`, `time` or `parameters`. The same plan of
    the same graph gives the same bytes. O(V + E), for as long as few values cross.

    Raises:
        DniError: the suffix names no format, or matplotlib is not installed.
        PreconditionError: the plan belongs to another graph, or the cost is not known.
        FileError: the path cannot be written.
    """
    check_picture(path)
    place = Path(path)
    kind = place.suffix.lower()
    gm = training_graph(graph) if isinstance(graph, Program) else graph
    scene = scene_of(gm, plan, cost)
    if kind == ".png":
        write_whole(place, _rendered(scene, "png"))
        return
    svg = with_titles(_rendered(scene, "svg").decode(), scene)
    write_whole(place, (page_of(svg, scene) if kind == ".html" else svg).encode())


def _rendered(scene: Scene, kind: str) -> bytes:
    """The bytes that matplotlib makes of a scene, whatever style the user has chosen for plots."""
    try:
        from matplotlib import style

        from dni_fx.picture.drawing import figure_of
    except ModuleNotFoundError as error:
        raise DniError(
            f"pictures are drawn with matplotlib, and {error.name} is not installed: "
            "pip install 'dni-fx[picture]'."
        ) from None
    with style.context(["default", _STYLE]), io.BytesIO() as file:
        figure: Figure = figure_of(scene)
        dpi = min(_DPI, _PIXELS / max(figure.get_size_inches()))
        nothing = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(file, format=kind, dpi=dpi if kind == "png" else 72, metadata=nothing)
        return file.getvalue()
