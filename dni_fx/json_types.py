"""JSON from a file that nobody vouches for: how large it may be, and what must be in it."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Any, Union

MOST = 512 * 2**20
"""Bytes of JSON that are read at all; the graph of 100,000 operations takes a third of that."""

_WORDS = {"NaN", "Infinity", "-Infinity"}
"""How torch writes the numbers that JSON has no digits for."""
_NUMBERS = range(-(2**63), 2**64)


def parse_json(text: bytes | bytearray | str, most: int = MOST) -> Any:
    """What a text of JSON says.

    Raises:
        ValueError: it is no JSON, is larger than `most` bytes, too deep, or holds NaN or an infinity.
    """
    if len(text) > most:
        raise ValueError(f"{len(text):,} bytes of JSON, and at most {most:,} are read")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def wrong_types(value: Any, kind: Any, place: str = "", *, closed: str = "") -> Iterator[str]:
    """Every place in parsed JSON that is not of the kind which a data class says, one by one.

    `kind` is a data class, whose fields are the keys of an object, or any type that a field of one may have.
    Keys that are no fields are left out of account, but in a class derived from `closed`: an object of it has
    one key, which says what the value is. Whole numbers fit into 64 bits.

    >>> list(wrong_types({"a": [1, "b"]}, dict[str, list[int]]))
    ["a.1 is 'b' and not a whole number"]
    """
    origin, parts = _taken_apart(kind)
    if kind is Any:
        return
    if origin in (Union, UnionType):
        if value is None and type(None) in parts:
            return
        yield from wrong_types(value, parts[0], place, closed=closed)
    elif dataclasses.is_dataclass(kind):
        yield from _wrong_object(value, kind, place, closed)
    elif origin in (list, dict):
        if not isinstance(value, origin):
            yield _said(place, value, "list" if origin is list else "object")
            return
        entries: Any = enumerate(value) if isinstance(value, list) else value.items()
        for key, each in entries:
            yield from wrong_types(each, parts[-1], _under(place, key), closed=closed)
    elif not _is_plain(value, kind):
        yield _said(place, value, _NAMES.get(kind, "whole number"))


def _wrong_object(value: Any, kind: Any, place: str, closed: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _said(place, value, "object")
        return
    given = typing.cast("dict[str, Any]", value)
    hints = _hints(kind)
    if closed and any(base.__name__ == closed for base in kind.__mro__):
        if len(given) != 1 or not given.keys() <= hints.keys():
            names = ", ".join(sorted(given)) or "none"
            yield f"{place or 'it'} is to be one of {', '.join(hints)}, and not {names:.200}"
            return
    else:
        missing = [
            field.name
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in given
        ]
        if missing:
            yield f"{place or 'it'} has no {', '.join(missing)}"
    for name in given.keys() & hints.keys():
        yield from wrong_types(given[name], hints[name], _under(place, name), closed=closed)


def _is_plain(value: object, kind: Any) -> bool:
    if kind is float:
        return type(value) in {int, float} or (isinstance(value, str) and value in _WORDS)
    if kind is int or (isinstance(kind, type) and issubclass(kind, Enum)):
        return isinstance(value, int) and value in _NUMBERS
    return type(value) is kind


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@functools.cache
def _taken_apart(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(kind), typing.get_args(kind)


def _under(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _said(place: str, value: object, wanted: str) -> str:
    return f"{place or 'it'} is {value!r:.100} and not {_article(wanted)}"


def _article(wanted: str) -> str:
    return f"an {wanted}" if wanted[0] in "aeiou" else f"a {wanted}"


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


_NAMES: dict[Any, str] = {str: "text", bool: "truth value", int: "whole number", float: "number"}
