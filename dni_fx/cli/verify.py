"""Check a cut model against its original."""

from __future__ import annotations

import typer

from dni_fx import verbs
from dni_fx.cli import options
from dni_fx.cli.models import cut_model, open_model
from dni_fx.cli.options import CutRequest, ModelRequest
from dni_fx.cli.output import say_json

NAME = "verify"
EXAMPLE = "dni-fx verify dni_fx.demo:mlp --plan balanced:stages=3"


def run(
    model: options.ModelText,
    weights: options.Weights = None,
    example: options.Example = "",
    allow_pickle: options.AllowPickle = False,
    plan: options.PlanText = None,
    synthesizer: options.SynthesizerText = None,
    interface: options.InterfaceText = None,
    frontend: options.FrontEndText = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare a cut model with its original.

    It has to be equal where it must be, and cut where it must be. Exits 1 if a check fails.
    """
    opened = open_model(ModelRequest(model, weights, example, allow_pickle))
    cut = cut_model(opened, CutRequest.of(plan, synthesizer, interface, frontend))
    report = verbs.verify(cut, opened.example)
    if as_json:
        say_json({"ok": report.ok, "checks": report.checks})
    else:
        typer.echo(str(report))
    if not report.ok:
        raise typer.Exit(1)
