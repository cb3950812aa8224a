"""What a shell offers for a word that is not typed out yet. None of it waits for torch."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

_HOME = Path(__file__).parents[1]

TABLES = {
    "frontends": _HOME / "frontends/__init__.py",
    "policies": _HOME / "policies/__init__.py",
    "synthesizers": _HOME / "synthesizers/__init__.py",
    "interfaces": _HOME / "interface.py",
    "runtimes": _HOME / "runtimes/__init__.py",
    "schedules": _HOME / "schedules/__init__.py",
    "exporters": _HOME / "exporters/__init__.py",
    "passes": _HOME.parent / "passes/__init__.py",
}
"""Where the names of each family stand."""


def names_of(family: str) -> list[str]:
    """The names in a family's table, and those that other packages add to it.

    The table is read, and not imported: what it stands in brings in torch, for which a shell would wait.

    >>> names_of("runtimes")
    ['backprop', 'distributed', 'local']
    """
    tree = ast.parse(TABLES[family].read_text("utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    tables = (
        argument
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Registry"
        for argument in call.args
        if isinstance(argument, ast.Dict)
    )
    keys = [key.value for table in tables for key in table.keys if isinstance(key, ast.Constant)]
    others = [found.name for found in entry_points(group=f"dni_fx.{family}")]
    return sorted({*map(str, keys), *others})


def completing(family: str) -> Callable[[str], list[str]]:
    """Completes the name in a text such as `mlp` or `PATTERN=mlp`."""

    def complete(incomplete: str) -> list[str]:
        before, mark, begun = incomplete.rpartition("=")
        return [f"{before}{mark}{name}" for name in names_of(family) if name.startswith(begun)]

    return complete


def complete_family(incomplete: str) -> list[str]:
    """Completes the name of a family."""
    return [family for family in TABLES if family.startswith(incomplete)]
