"""Python objects that the command line names: `package.module:attribute`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from dni_fx.errors import FileError


def look_up(text: str, option: str) -> Any:
    """The object that `package.module:attribute` names; code in the working directory comes first.

    Raises:
        FileError: there is no such module or attribute. What the module itself raises stays as it is.
    """
    module_name, _, path = text.partition(":")
    here = search_here()
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise FileError(
            f"cannot find {option} {text}: {module_name!r} is no name of a module. Write package.module:name."
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and needs another one that is not
        raise FileError(
            f"cannot find {option} {text}: no module {error.name!r} is in {here}, and none is installed."
        ) from None
    for name in path.split("."):
        if not hasattr(found, name):
            close = difflib.get_close_matches(name, dir(found), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise FileError(f"cannot find {option} {text}: {module_name} has no {name!r}.{hint}")
        found = getattr(found, name)
    return found


def search_here() -> str:
    """Put the working directory first on the path of modules; returns it."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return here


def called(factory: Any, text: str, option: str) -> Any:
    """What a callable without arguments returns.

    Raises:
        FileError: it cannot be called like that.
    """
    if not callable(factory):
        raise FileError(f"{option} {text} is a {type(factory).__name__}, and it has to be a function.")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise FileError(
            f"{option} {text} is called without arguments, and it is not made for that ({error}). Write a "
            "function without arguments that calls it."
        ) from None
    except ValueError:
        pass  # a builtin does not tell its signature
    return factory()
