"""A table of names, resolved on first use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from passes.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind, by name. An entry is the thing or its "module:attribute".

    Where a `group` is named, other packages add entries by Python entry points of that group.
    A name that this table holds already keeps its meaning.
    """

    def __init__(self, kind: str, entries: Mapping[str, T | str], group: str = "") -> None:
        self.kind = kind
        self._entries: dict[str, Any] = dict(entries)
        self._group = group

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(self._entries)

    def register(self, name: str, entry: T | str) -> None:
        """Add an entry. A name is taken once: there is no silent replacement.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is already registered as {self._entries[name]!r}.")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """Look a name up, importing its module if nobody has yet.

        Raises:
            UnknownNameError: nothing has this name; says which names are close, and all there are.
        """
        if name not in self._entries:
            self._load_entry_points()
        if (entry := self._entries.get(name)) is None:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UnknownNameError(f"no {self.kind} named {name!r}.{hint} Known: {', '.join(sorted(self))}.")
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return cast("T", entry)

    def _load_entry_points(self) -> None:
        if self._group:
            for found in entry_points(group=self._group):
                self._entries.setdefault(found.name, found.value)
            self._group = ""
