"""`dni-fx env`."""

from __future__ import annotations

from dataclasses import dataclass

from dni_fx.cli.commands.base import Request


@dataclass(frozen=True, kw_only=True)
class Env(Request):
    """Show what this runs on, for a report of a bug.

    Versions of Python, torch, dni_fx and what is optional; devices and threads.
    """

    name = "env"
    example = "dni-fx env"
    work = "env"
