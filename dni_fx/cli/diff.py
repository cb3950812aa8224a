"""Show in what two files differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from dni_fx.cli.commands.diff import Diff
from dni_fx.cli.differences import (
    Differences,
    Names,
    Numbers,
    Plans,
    Weights,
    names_apart,
    plans_apart,
    weights_apart,
)
from dni_fx.cli.models import is_pickled
from dni_fx.cli.output import say_json, say_table
from dni_fx.cli.sides import Side, sides_of
from dni_fx.cli.usage import refuse_idle
from dni_fx.errors import DniError
from passes.words import counted


def run(request: Diff) -> None:
    """Say in what they differ; exit 1 if they do."""
    if not any(is_pickled(Path(text)) for text in (request.one, request.other)):
        refuse_idle({"--allow-pickle": request.allow_pickle}, "neither of both is a pickled module")
    sides = sides_of((request.one, request.other), request.allow_pickle)
    found = differences(*sides)
    if not found.compared:
        raise DniError(
            f"{request.one} and {request.other} have nothing in common: one holds {_held(sides[0])}, the "
            f"other {_held(sides[1])}."
        )
    if request.as_json:
        say_json({"equal": not found, **dataclasses.asdict(found)})
    else:
        _say(found)
    if found:
        raise typer.Exit(1)


def differences(one: Side, other: Side) -> Differences:
    """In what two files differ, for what both of them hold."""
    how = {
        "graph": ("nodes", names_apart),
        "plan": ("plan", plans_apart),
        "boundaries": ("boundaries", names_apart),
        "weights": ("state", weights_apart),
        "synthesizers": ("synthesizers", weights_apart),
    }
    parts: dict[str, Any] = {}
    for name, (held, compare) in how.items():
        both = getattr(one, held), getattr(other, held)
        if all(each is not None for each in both):
            parts[name] = compare(*both)
    return Differences(**parts, compared=list(parts))


def _held(side: Side) -> str:
    held = {"a graph": side.nodes, "a plan": side.plan, "weights": side.state}
    return " and ".join(name for name, each in held.items() if each is not None)


def _say(found: Differences) -> None:
    for name in found.compared:
        match getattr(found, name):
            case Names() as names:
                _say_names(name, names, is_equal=not names)
            case Plans() as plans:
                _say_names(name, plans.values, "stage ", is_equal=not plans)
                for part, (one, other) in plans.rest.items():
                    typer.echo(f"  {part}: {one} -> {other}")
            case Weights() as weights:
                _say_weights(name, weights)
            case _:
                pass


def _say_names(title: str, names: Names, kind: str = "", *, is_equal: bool) -> None:
    typer.echo(f"{title}: {'equal' if is_equal else 'different'}")
    typer.echo("".join(f"  - {name}\n" for name in names.only_one), nl=False)
    typer.echo("".join(f"  + {name}\n" for name in names.only_other), nl=False)
    for name, (one, other) in names.changed.items():
        typer.echo(f"  {name}: {kind}{one} -> {kind}{other}")


def _say_weights(title: str, weights: Weights) -> None:
    names = weights.names
    if title == "synthesizers":  # they are many, and named after their parts
        counts = [
            [counted(len(each), "tensor")] if each else [] for each in (names.only_one, names.only_other)
        ]
        names = Names(counts[0], counts[1], names.changed)
    _say_names(title, names, is_equal=not weights)
    count = weights.equal + len(weights.numbers)
    typer.echo(f"  {len(weights.numbers):,} of {counted(count, 'tensor')} differ")
    if title != "synthesizers" and weights.numbers:
        columns = ("tensor", "numbers that differ", "largest difference", "relative")
        say_table(columns, [(name, *_cells(each)) for name, each in weights.numbers.items()])


def _cells(numbers: Numbers) -> tuple[str, ...]:
    elements = f"{numbers.elements:,} of {numbers.of:,}"
    return elements, f"{numbers.largest:.3g}", f"{numbers.relative:.3g}"
