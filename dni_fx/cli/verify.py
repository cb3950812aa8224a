"""Check a cut model against its original."""

from __future__ import annotations

import typer

from dni_fx import verbs
from dni_fx.cli.commands.verify import Verify
from dni_fx.cli.models import cut_model, open_model
from dni_fx.cli.output import say_json
from dni_fx.describe import history_of
from dni_fx.single_mode import mode_without_graph


def run(request: Verify) -> None:
    """Say whether it is equal where it must be, and cut where it must be; exit 1 if it is not."""
    opened = open_model(request.source)
    cut = cut_model(opened, request.cut)
    report = verbs.verify(cut, opened.example)
    lacking = mode_without_graph(history_of(cut))
    if request.as_json:
        say_json({"ok": report.ok, "checks": report.checks, "mode_without_graph": lacking})
    else:
        typer.echo(str(report))
        if lacking:
            typer.echo(
                f"\nthere is no graph of {lacking} mode to check: what is said of it is said of that of "
                f"{'eval' if lacking == 'train' else 'train'} mode, which stands in for it"
            )
    if not report.ok:
        raise typer.Exit(1)
