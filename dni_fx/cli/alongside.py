"""One command in several processes, of which the first speaks for all."""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace

import typer

from dni_fx.cli.commands.train import Train
from dni_fx.cli.commands.training import KeepRequest

_RUNTIME = "distributed"


@contextmanager
def alongside(request: Train) -> Generator[Train]:
    """Inside, the request as this process is to do it: all but the first print and write nothing.

    Raises:
        BadParameter: there are several processes, and the runtime is for one.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and request.step.runtime.partition(":")[0] != _RUNTIME:
        raise typer.BadParameter(
            f"{request.step.runtime} trains in one process, and {ranks} have been started, each of which "
            f"would do the same: use {_RUNTIME}.",
            param_hint="--runtime",
        )
    if ranks == 1 or os.environ.get("RANK") == "0":
        yield request
        return
    with redirect_stdout(io.StringIO()):
        yield replace(request, keep=KeepRequest(), as_json=False)
