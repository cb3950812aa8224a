"""`dni-fx verify`."""

from __future__ import annotations

from dataclasses import dataclass

from dni_fx.cli.commands.base import Request
from dni_fx.cli.commands.options import CutRequest, ModelRequest


@dataclass(frozen=True, kw_only=True)
class Verify(Request):
    """Compare a cut model with its original.

    It has to be equal where it must be, and cut where it must be. Exits 1 if a check fails.
    """

    name = "verify"
    example = "dni-fx verify dni_fx.demo:mlp --plan balanced:stages=3"
    work = "verify"

    source: ModelRequest
    cut: CutRequest
