"""What the graph in a `.pt2` file must look like before torch may read it.

Reading an exported program the plain way can run code: symbolic sizes go through `sympify`,
which is an `eval`; guards are compiled; names of nodes become Python source; and trees of arguments
name modules to import. So the JSON is checked here first, whole, and what torch is then given holds
none of that.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from torch._export.serde import schema

from dni_fx.errors import FileError
from dni_fx.expressions import is_symbol, wrong_with
from dni_fx.json_types import parse_json, wrong_types
from dni_fx.members import refuse
from dni_fx.operators import LIBRARIES, wrong_arguments, wrong_target
from dni_fx.trees import wrong_names, wrong_tree

_PATH = re.compile(r"[^\"'\\\x00-\x1f]*")
_PATHS = frozenset({"parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn"})
_VALUE_TABLES = frozenset({"tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values"})
_STACK = "nn_module_stack"
_KEPT_METADATA = ("custom", _STACK, "torch_fn")
_MOST_TOLD = 20


def vet_program(text: bytes | bytearray, where: str, trusted: Collection[str] = ()) -> bytes:
    """The JSON of an exported program, without guards and without metadata that torch would resolve.

    Every symbolic expression in it is arithmetic, every name can stand in Python source, every
    operator belongs to torch, to dni_fx or to a library in `trusted`, every entry is of the type that torch
    declares for it, and no value is pickled.

    Raises:
        FileError: the JSON holds anything else. Lists every such place.
    """
    try:
        program = parse_json(text)
        problems = list(_problems(program, trusted)) or list(_wrong_schema(program))
        cleaned = clean_program(program)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"cannot read {where}: it is not the JSON of a program ({error!r:.300}).") from None
    more = [f"and {len(problems) - _MOST_TOLD:,} more"] if len(problems) > _MOST_TOLD else []
    refuse(f"refused to load {where}", problems[:_MOST_TOLD] + more)
    return cleaned


def clean_program(program: Any) -> bytes:
    """The JSON of a program without guards, and with what tells where a node is from in the model.

    The rest of a node's metadata shows the author's source and paths, and is resolved to Python objects
    when it is read. Changes `program`.
    """
    program["guards_code"] = []
    for place in places(program):
        if "target" in place and "metadata" in place:
            kept = {key: place["metadata"][key] for key in _KEPT_METADATA if key in place["metadata"]}
            if not _PATH.fullmatch(kept.get(_STACK, "")):  # it names submodules when a program is unflattened
                del kept[_STACK]
            place["metadata"] = kept
    return json.dumps(program).encode()


def places(program: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in the program, however deep, but for tables: their keys are names of values."""
    todo = [program]
    while todo:
        place = todo.pop()
        if isinstance(place, dict):
            yield place
            for key, value in place.items():
                is_table = key in _VALUE_TABLES and isinstance(value, dict)
                todo.extend(value.values() if is_table else [value])
        elif isinstance(place, list):
            todo.extend(place)


def _problems(program: Any, trusted: Collection[str]) -> Iterator[str]:
    libraries = LIBRARIES.union(trusted)
    for symbol in program["range_constraints"]:
        if not is_symbol(symbol):
            yield f"the range of {symbol!r:.200}: it is not the name of a size"
    for place in places(program):
        for key, value in place.items():
            if why := _wrong_entry(key, value, libraries, trusted):
                yield f"{key} {value!r:.200}: {why}"
        if "target" in place and "inputs" in place and (why := wrong_arguments(place)):
            yield f"the arguments of {place['target']!r:.200}: {why}"


def _wrong_schema(program: Any) -> Iterator[str]:
    """What is not of the type that torch declares; another version of the schema torch refuses itself."""
    if program["schema_version"]["major"] == schema.SCHEMA_VERSION[0]:
        yield from wrong_types(program, schema.ExportedProgram, closed="_Union")


def _wrong_entry(key: str, value: Any, libraries: Collection[str], trusted: Collection[str]) -> str:
    match key, value:
        case "expr_str", _:
            return _known_wrong(value)
        case (("target" | "as_operator"), _):
            return wrong_target(value, libraries)
        case (("name" | "as_name"), _):
            return "" if value is None else wrong_names([value])
        case "forward_arg_names", _:
            return "" if value is None else wrong_names(list(value))
        case (("in_spec" | "out_spec"), _):
            return wrong_tree(value, trusted, is_input=key == "in_spec")
        case (("custom_obj" | "as_custom_obj"), _):
            return "it is an object that only unpickling could restore"
        case _ if key in _VALUE_TABLES:
            return wrong_names(value)
        case _ if key in _PATHS and _PATH.fullmatch(value) is None:
            return "it has characters that the name of a module or parameter should not have"
        case _:
            return ""


@functools.lru_cache(maxsize=1024)
def _known_wrong(expression: str) -> str:
    return wrong_with(expression)
