"""The command line: the verbs of `dni_fx.verbs` on models and data that are named in text."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from dni_fx.cli.commands import COMMANDS, command
from dni_fx.cli.user_code import blamed
from dni_fx.cli.workers import from_worker
from dni_fx.interruption import CODE, SAID


class _Commands(TyperGroup):
    """Says in one message what was wrong, in a request or in user code. Our bugs keep their traceback."""

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has seen enough; typer ends quietly
        except KeyboardInterrupt:
            typer.echo(SAID, err=True)
            raise typer.Exit(CODE) from None
        except Exception as error:
            if (said := _said(error)) is None:
                raise
            typer.echo("\n".join([f"dni-fx: {said}", *getattr(error, "__notes__", ())]), err=True)
        raise typer.Exit(1)


def _said(error: Exception) -> str | None:
    """What whoever made the request is told; None for a bug of this project."""
    if from_worker(error) is None and _is_told(error):
        return str(error)
    if (theirs := blamed(error)) is not None:
        return theirs
    if isinstance(error, OSError):
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}"
    return None


def _is_told(error: Exception) -> bool:
    """Whether it was raised on purpose, to be read by whoever made the request."""
    # Nobody has raised what nobody has imported; importing it here would make every exit wait for torch.
    known = [vars(sys.modules[home])[name] for home, name in _ERRORS if home in sys.modules]
    return isinstance(error, tuple(known))


_ERRORS = (("dni_fx.errors", "DniError"), ("passes.errors", "GraphError"))
_EPILOG = """\b
Exit codes:
  0    all went well; what was compared is equal
  1    the request failed, a check failed, or a difference was found
  2    wrong usage: an unknown option, or one that does not go with another
  130  interrupted; no file is half written

\b
Example:
  dni-fx inspect dni_fx.demo:mlp --plan balanced:stages=3
"""

app = typer.Typer(
    name="dni-fx",
    cls=_Commands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes would break the examples that the help texts print
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
for _request in COMMANDS:
    app.command(_request.name, epilog=f"\b\nExample:\n  {_request.example}")(command(_request))


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dni-fx {_version('dni-fx')}, torch {_version('torch')}")
        raise typer.Exit


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"


@app.callback()
def _options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """Cut PyTorch models into stages that learn without waiting for one another.

    The usual way: `inspect` a model, `plan` its cuts, `decouple` it, `verify` that nothing else changed,
    `train` it, `recouple` or `export` what it has learned. A MODEL is a .pt2 file or package.module:factory.
    Results go to stdout and everything else to stderr; progress is drawn on terminals only.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line: exit 0 if all went well, 1 with a message if it did not, 2 for wrong usage."""
    app(prog_name="dni-fx")
