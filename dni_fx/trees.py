"""How arguments and results are nested, as files say it.

torch imports modules by names that it finds there: of enumerations and of the factories of default
dictionaries. So a text is read here first, and what is left for torch names containers that are known.
"""

from __future__ import annotations

import keyword
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, cast

import torch.utils._pytree as pytree

from dni_fx.errors import FileError
from dni_fx.json_types import parse_json

_DEEPEST = 64
_OWN = "dni_fx.fields.Fields"
_KEYED = frozenset({"builtins.dict", "collections.OrderedDict"})
_DEFAULTS = "collections.defaultdict"
_FACTORIES = frozenset({"bool", "dict", "float", "int", "list", "set", "str", "tuple"})


def wrong_tree(text: object, trusted: Collection[str] = (), *, is_input: bool = False) -> str:
    """Why torch may not read the text of a tree; empty where it may.

    `trusted` names packages whose own containers may be read by their own code. The keywords of an
    input's tree have to be names, for they are pasted into the source of a forward method.
    """
    try:
        protocol, tree = parse_json(cast("str", text))
        if protocol != 1:
            return f"it is a tree of version {protocol!r:.20}, and this torch reads 1"
        return next(_wrong(tree, trusted, 0), "") or (_wrong_keywords(tree) if is_input else "")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"it is not a tree ({error!r:.200})"


def tree_of(text: str, trusted: Collection[str] = ()) -> pytree.TreeSpec:
    """The tree that a text from a file describes.

    Raises:
        ValueError: torch may not read it.
    """
    if why := wrong_tree(text, trusted):
        raise ValueError(f"{why}: {text:.200}")
    return pytree.treespec_loads(text)


def writable_tree(tree: pytree.TreeSpec) -> str:
    """The text of a tree that `tree_of` reads back, if what is in it is trusted.

    Raises:
        FileError: it could not be read without importing what it names, or has no name in a file.
    """
    if (cls := next(_nameless(tree), None)) is not None:
        raise FileError(
            f"cannot save a model whose arguments or results hold a {cls.__name__}: torch has been told how "
            "it is nested, and not what a file may call it. Register it with `serialized_type_name="
            f"{f'{cls.__module__}.{cls.__qualname__}'!r}`, also where the file is loaded."
        )
    try:
        text = pytree.treespec_dumps(tree)
    except (NotImplementedError, TypeError) as error:
        raise FileError(f"cannot save: {error}") from error
    everyone = {name.partition(".")[0] for name in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE}
    if why := wrong_tree(text, everyone):
        raise FileError(
            f"cannot save a model whose arguments or results are nested like this: {why}. Use plain "
            "dictionaries with texts as keys."
        )
    return text


def _nameless(tree: pytree.TreeSpec) -> Iterator[type]:
    """The containers in a tree that torch can take apart, and has no name for."""
    known = pytree.SUPPORTED_SERIALIZED_TYPES.get(tree.type)
    if known is not None and known.serialized_type_name == pytree.NO_SERIALIZED_TYPE_NAME_FOUND:
        yield tree.type
    for child in tree.children():
        yield from _nameless(child)


def wrong_names(names: Iterable[object]) -> str:
    """Why these may not be pasted into source as the names of values; empty where they may."""
    for name in names:
        if not isinstance(name, str):
            return f"{name!r:.200} is no name"
        if name and (not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name)):
            return f"{name!r:.200} cannot be the name of a value"
    return ""


def _wrong(tree: Mapping[str, Any], trusted: Collection[str], depth: int) -> Iterator[str]:
    kind, context, children = tree["type"], tree["context"], list(tree["children_spec"])
    if depth > _DEEPEST:
        yield f"it is nested more than {_DEEPEST} deep"
        return
    if kind is None:
        if context is not None or children:
            yield "a leaf of it holds something"
        return
    yield from _wrong_kind(kind, context, len(children), trusted)
    for child in children:
        yield from _wrong(child, trusted, depth + 1)


def _wrong_kind(kind: object, context: object, count: int, trusted: Collection[str]) -> Iterator[str]:
    if kind == _DEFAULTS:
        yield from _wrong_defaults(cast("Any", context), count)
    elif not isinstance(kind, str) or (known := pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(kind)) is None:
        yield f"it holds a {kind!r:.100}, which nothing that is imported has told torch of"
    elif kind == _OWN:
        yield from _wrong_fields(context, count)
    elif kind == "collections.namedtuple":
        if context not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            yield f"it holds a named tuple {context!r:.100}, which nothing that is imported has told torch of"
    elif pytree.SUPPORTED_SERIALIZED_TYPES[known].from_dumpable_context is not None:
        if kind.partition(".")[0] not in trusted:
            yield (
                f"a {kind} is read by code of its own; if you trust {kind.partition('.')[0]!r} with what "
                "is in this file, name it in `trusted`"
            )
    else:
        keys = parse_json(cast("str", context))
        if _imports(keys):
            yield "it names Python objects to import"
        elif kind in _KEYED and not (isinstance(keys, list) and len(cast("list[object]", keys)) == count):
            yield f"a {kind} of {count} values has not {count} keys"


def _wrong_defaults(context: Mapping[str, Any], count: int) -> Iterator[str]:
    home, name = context["default_factory_module"], context["default_factory_name"]
    if home != "builtins" or name not in _FACTORIES:
        yield f"it names Python objects to import ({home!r:.100}, {name!r:.100})"
    elif len(context["dict_context"]) != count:
        yield f"a {_DEFAULTS} of {count} values has not {count} keys"


def _wrong_fields(context: Any, count: int) -> Iterator[str]:
    home, names, is_tuple = context
    if not (isinstance(home, str) and isinstance(names, list) and isinstance(is_tuple, bool)):
        yield "a data class in it has no name, fields and kind"
        return
    fields = cast("list[object]", names)
    if why := wrong_names([home.rpartition(":")[2].rpartition(".")[2], *fields]):
        yield f"the data class {home:.100}: {why}"
    elif len(fields) != count or len(set(fields)) != count or "" in fields:
        yield f"the data class {home:.100} of {count} values has not {count} fields"


def _wrong_keywords(tree: Mapping[str, Any]) -> str:
    return wrong_names(parse_json(tree["children_spec"][1]["context"]))


def _imports(keys: object) -> bool:
    """Whether torch would import something for these keys: it does for an object that says so."""
    if isinstance(keys, list):
        return any(map(_imports, cast("list[object]", keys)))
    if isinstance(keys, dict):
        return "__enum__" in keys or any(map(_imports, cast("dict[str, object]", keys).values()))
    return False
