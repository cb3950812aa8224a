"""The command line: the verbs of `dni_fx.verbs` on models and data that are named in text."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup
from typing_extensions import override

from dni_fx.cli import decouple, export, inspect, list_, plan, train, verify
from dni_fx.errors import DniError
from passes import GraphError

_COMMANDS = (inspect, plan, decouple, verify, train, export, list_)


class _Commands(TyperGroup):
    """Says what was wrong with a request in one message. Whatever else goes wrong keeps its traceback."""

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has seen enough; typer ends quietly
        except (DniError, GraphError) as error:
            typer.echo("\n".join([f"dni-fx: {error}", *getattr(error, "__notes__", ())]), err=True)
        except KeyboardInterrupt:
            typer.echo("dni-fx: interrupted; no file is half written", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            typer.echo(f"dni-fx: {where}{error.strerror or error}", err=True)
        raise typer.Exit(1)


app = typer.Typer(
    name="dni-fx",
    cls=_Commands,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes would break the examples that the help texts print
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  dni-fx inspect dni_fx.demo:mlp --plan balanced:stages=3",
)
for _module in _COMMANDS:
    app.command(_module.NAME, epilog=f"\b\nExample:\n  {_module.EXAMPLE}")(_module.run)


def _say_version(wanted: bool) -> None:
    if wanted:
        try:
            ours = version("dni-fx")
        except PackageNotFoundError:
            ours = "(not installed)"
        typer.echo(f"dni-fx {ours}, torch {torch.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """Cut PyTorch models into stages that learn without waiting for one another."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line: exit 0 if all went well, 1 with a message if it did not, 2 for wrong usage."""
    app(prog_name="dni-fx")
