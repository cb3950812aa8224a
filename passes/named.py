"""Things a user can name in text: `balanced:stages=4`.

Every pass, policy, synthesizer, interface, front-end, runtime and exporter is a frozen
dataclass with a `name`. `str` writes its text form and `parse` reads it; each is the
other's inverse. Options are separated by commas and the items of a tuple by `+`. Text
that holds one of the marks itself, or white space, stands in double quotes, as in JSON.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import re
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from passes.errors import SpecError
from passes.registry import Registry
from passes.words import one

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_KEY = re.compile(r"([a-z_][a-z0-9_]*)=")
_ITEM = re.compile(r'"(?:[^"\\]|\\.)*"|[^,+="\s]*')
_BARE = re.compile(r"[^,+=\"\s]+")
_BOOL = {"true": True, "false": False}


@dataclass(frozen=True)
class Named(abc.ABC):
    """A frozen dataclass with a name. Fields are int, float, bool, str or tuples of them."""

    name: ClassVar[str]

    def __str__(self) -> str:
        options = [
            f"{field.name}={_write(value)}"
            for field in options_of(type(self))
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{self.name}:{','.join(options)}" if options else self.name


def options_of(cls: type[Named]) -> list[dataclasses.Field[Any]]:
    """The fields of a class in the order in which text names them: what is its own before what it shares."""
    return sorted(dataclasses.fields(cls), key=lambda field: bool(field.kw_only))


N = TypeVar("N", bound=Named)


def parse(text: str, registry: Registry[type[N]]) -> N:
    """Read one text form, such as `mlp:hidden=256,depth=2`; the inverse of `str`.

    Raises:
        SpecError: the text is malformed (a caret shows where), or an option is unknown or unreadable.
        UnknownNameError: the name is not in `registry`.
    """
    made, unknown = parse_known(text, registry)
    if unknown:
        takes = ", ".join(field.name for field in options_of(type(made)))
        raise SpecError(f"{made.name} has no option {unknown[0]!r}. It takes: {takes or 'none'}.")
    return made


def parse_known(text: str, registry: Registry[type[N]]) -> tuple[N, list[str]]:
    """Like `parse`, but options that are not known are left out, and returned by name.

    Raises:
        SpecError: the text is malformed, or an option is given twice or unreadable.
        UnknownNameError: the name is not in `registry`.
    """
    if (match := _NAME.match(text)) is None:
        raise _malformed(text, 0, registry.kind)
    if text.startswith("=", match.end()):
        raise _nameless(text, match[0], registry)
    cls = registry.get(match[0])
    at = match.end()
    values: dict[str, Any] = {}
    unknown: list[str] = []
    types = typing.get_type_hints(cls)
    takes = {field.name for field in options_of(cls)}
    mark = ":"
    while at < len(text):
        if text[at] != mark or (key := _KEY.match(text, at + 1)) is None:
            raise _malformed(text, at, registry.kind)
        if key[1] in values:
            raise SpecError(f"{cls.name} is given the option {key[1]!r} twice.")
        items, at = _items(text, key.end(), registry.kind)
        if key[1] in takes:
            values[key[1]] = _read(f"{cls.name}.{key[1]}", items, types[key[1]])
        else:
            unknown.append(key[1])
        mark = ","
    return cls(**values), unknown


def _items(text: str, at: int, kind: str) -> tuple[list[str], int]:
    """The items joined by `+` from position `at` on, still quoted, and where they end."""
    items: list[str] = []
    while (item := _ITEM.match(text, at)) is not None:
        items.append(item[0])
        at = item.end()
        if not text.startswith("+", at):
            break
        at += 1
    if at < len(text) and text[at] != ",":
        raise _malformed(text, at, kind)
    return items, at


def _malformed(text: str, at: int, kind: str) -> SpecError:
    return SpecError(
        f"cannot read {one(kind)} here:\n  {text}\n  {' ' * at}^\n"
        "The form is name:option=value,option=value; the items of a list are joined by +."
    )


def takers_of(option: str, registry: Registry[type[N]]) -> list[str]:
    """The names of what takes an option of this name."""
    return [name for name in registry if option in {each.name for each in options_of(registry.get(name))}]


def _nameless(text: str, option: str, registry: Registry[type[N]]) -> SpecError:
    takers = takers_of(option, registry)
    wanted = (
        f"write {' or '.join(f'{name}:{text}' for name in takers)}" if takers else "write name:option=value"
    )
    return SpecError(f"{text!r} names no {registry.kind}, and begins with an option: {wanted}.")


def _write(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(_write, typing.cast("tuple[object, ...]", value)))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).replace("e+", "e")  # a plus sign joins the items of a tuple
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _read(where: str, items: list[str], kind: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        each = typing.get_args(kind)[0]
        return () if items == [""] else tuple(_read_one(where, item, each) for item in items)
    if len(items) > 1:
        raise SpecError(f"{where} takes one {kind.__name__}, and got {len(items)}: {', '.join(items)}.")
    return _read_one(where, items[0], kind)


def _read_one(where: str, item: str, kind: Any) -> Any:
    try:
        text = json.loads(item) if item.startswith('"') else item
        return _BOOL[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise SpecError(f"{where} is {kind.__name__}, and {item!r} cannot be read as one.") from None
