"""Write a cut model for other tools."""

from __future__ import annotations

from dataclasses import replace

import typer

from dni_fx import verbs
from dni_fx.cli.commands.export import Export
from dni_fx.cli.models import cut_model, open_model
from dni_fx.cli.output import say_json
from dni_fx.cli.places import check_name
from dni_fx.cli.rehearsal import beside
from dni_fx.exporters import EXPORTERS
from passes import parse


def run(request: Export) -> None:
    """Write the file, and say what is in it."""
    exporter = parse(request.exporter, EXPORTERS)
    check_name(request.output, exporter.suffixes)
    exporter.check_place(request.output)
    opened = open_model(request.source)
    cut = cut_model(opened, request.cut)
    if not request.dry_run:
        written = verbs.export(cut, request.output, exporter=exporter, inputs=opened.example)
        sizes = {file: file.stat().st_size for file in written.files}
    else:
        # What a file computes is compared with PyTorch, and for that there has to be one.
        with beside(request.output) as path:
            made = verbs.export(cut, path, exporter=exporter, inputs=opened.example)
            sizes = {
                # A folder was asked for, or a file that others may lie beside.
                request.output.parent / file.relative_to(path.parent): file.stat().st_size
                for file in made.files
            }
        written = replace(made, path=request.output, files=tuple(sizes))
    if request.as_json:
        say_json({**vars(written), "bytes": sum(sizes.values()), "dry_run": request.dry_run})
    else:
        typer.echo(f"{'would write' if request.dry_run else 'wrote'} {written}")
