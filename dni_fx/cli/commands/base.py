"""A command: a frozen dataclass of what it is asked, and a module that does it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from dni_fx.cli.commands.options import AsJson
from dni_fx.interruption import ending_at_once


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command is asked. Each field is an argument or option, or a group of them.

    A subclass sets `name`, an `example` of its use, and `work`: the module of `dni_fx.cli` whose `run` takes
    the request. Its docstring is the help text. It imports nothing heavy, so that help and the completion of
    a command line are there at once.
    """

    name: ClassVar[str]
    example: ClassVar[str]
    work: ClassVar[str]

    as_json: AsJson = False


def command(request: type[Request]) -> Callable[..., None]:
    """A function with one parameter for each option of a request, as typer takes it."""

    def run(**given: Any) -> None:
        # What reads and trains models takes seconds to import: only a command that runs waits for it.
        with ending_at_once():
            importlib.import_module("dni_fx.ready")
            work = importlib.import_module(f"dni_fx.cli.{request.work}").run
        made = _made(request, given)
        output = importlib.import_module("dni_fx.cli.output")
        with output.saying_warnings(), output.one_document(made.as_json):
            work(made)

    parameters = list(_parameters(request))
    vars(run)["__signature__"] = inspect.Signature(
        sorted(parameters, key=lambda each: each.name == "as_json")
    )
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__doc__ = inspect.getdoc(request)
    return run


def _parameters(group: type) -> Iterator[inspect.Parameter]:
    """What the fields of a group are as parameters, those of the groups in it in their places."""
    kinds = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from _parameters(kind)
            continue
        none = field.default is dataclasses.MISSING
        default: Any = inspect.Parameter.empty if none else field.default
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _made(group: type, given: dict[str, Any]) -> Any:
    """The group with the values that its fields were given."""
    kinds = typing.get_type_hints(group)
    values = {
        field.name: _made(kinds[field.name], given)
        if dataclasses.is_dataclass(kinds[field.name])
        else given[field.name]
        for field in dataclasses.fields(group)
    }
    return group(**values)
