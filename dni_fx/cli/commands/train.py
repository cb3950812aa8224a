"""`dni-fx train`."""

from __future__ import annotations

from dataclasses import dataclass

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import AllowEvalGraph, CutRequest, DryRun, ModelRequest
from dni_fx.cli.commands.training import DataRequest, KeepRequest, StepRequest


@dataclass(frozen=True, kw_only=True)
class Train(Request):
    """Train a cut model on data.

    Reports the loss, the accuracy and the cosine of synthetic and true gradient at each boundary. A model
    that is not cut yet is cut first. With --dry-run it takes one step, to meet what would stop it, and keeps
    nothing.
    """

    name = "train"
    example = (
        "dni-fx train dni_fx.demo:mlp --data dni_fx.demo:clusters --plan balanced:stages=3 -o trained.pt2"
    )
    work = "train"

    source: ModelRequest
    data: DataRequest
    step: StepRequest
    keep: KeepRequest
    cut: CutRequest
    allow_eval_graph: AllowEvalGraph = False
    dry_run: DryRun = False
