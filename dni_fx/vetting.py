"""What a `.pt2` file must look like before torch may read it.

Reading an exported program the plain way can run code: symbolic sizes go through `sympify`,
which is an `eval`; guards are compiled; names of nodes become Python source; tensors marked
`use_pickle` are unpickled; and a flipped bit in a weight loads in silence. So a file is
checked here first, whole, and what torch is then given is JSON that holds none of that.
"""

from __future__ import annotations

import io
import json
import keyword
import re
import struct
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from dni_fx.errors import FileError
from dni_fx.expressions import is_symbol, wrong_with

_NAME = r"[A-Za-z0-9_-]{1,100}"
_MEMBER = re.compile(
    rf"archive_(format|version)|byteorder|\.?version|\.data/(version|serialization_id)"
    rf"|\.format_version|\.storage_alignment|models/{_NAME}\.json|data/sample_inputs/{_NAME}\.pt"
    rf"|data/weights/({_NAME}_weights_config\.json|weight_\d+)"
    rf"|data/constants/({_NAME}_constants_config\.json|tensor_\d+)"
    rf"|data/dni_fx/(state_config\.json|state_\d+)|extra/[^/\\]{{1,100}}"
)
_PICKLED = re.compile(r"data/(weights|constants)/(custom_obj_\d+|opaque_obj_\d+|[^/]*\.pt)")

_LIBRARIES = frozenset({"aten", "dni_fx", "prims", "quantized_decomposed", "torchvision"})
_OPERATOR = re.compile(
    r"torch\.ops\.([A-Za-z]\w*)\.(_?[A-Za-z]\w*|__i?(?:and|or|xor|lshift|rshift)__)\.([A-Za-z]\w*)", re.ASCII
)
_TOUCHES_FILES = frozenset({"from_file", "save"})
_OTHER_TARGET = re.compile(
    r"torch\._?sym_(not|int|float|ite|max|min|sqrt)|math\.(trunc|ceil|floor|sqrt)|_operator\.(eq|ne|le|ge|lt|gt"
    r"|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem)"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|map_impl|out_dtype|strict_mode|wrap"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast|wrap_activation_checkpoint|tag_activation_checkpoint"
    r"|invoke_subgraph|hints_wrapper|flex_attention|flex_attention_backward)"
)

_PATH = re.compile(r"[^\"'\\\x00-\x1f]*")
_PATHS = frozenset({"parameter_name", "buffer_name", "tensor_constant_name", "user_input_name", "fqn"})
_VALUE_TABLES = frozenset({"tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values"})
_STACK = "nn_module_stack"
_KEPT_METADATA = ("custom", _STACK, "torch_fn")


def read_members(path: Path) -> dict[str, bytearray]:
    """Every member of a `.pt2` file by name, each of them complete and with the right CRC.

    Raises:
        FileError: the file is missing, is not a `.pt2` archive, was cut short or changed, or holds
            members that have no place in one. Says which.
    """
    try:
        with path.open("rb") as file:
            return _read_zip(path, file)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error


def refuse(doing: str, problems: Iterable[str]) -> None:
    """Raise one error that lists every problem, or return if there is none.

    Raises:
        FileError: there is a problem.
    """
    if listed := "".join(f"\n  * {problem}" for problem in problems):
        raise FileError(f"{doing}:{listed}")


def _read_zip(path: Path, file: IO[bytes]) -> dict[str, bytearray]:
    start, size = file.read(4), file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            refuse(f"cannot read {path}", _wrong_members(infos, size))
            return {info.filename.partition("/")[2]: _read_member(archive, info) for info in infos}
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        struct.error,
    ) as error:
        cut = start == b"PK\x03\x04" and str(error) == "File is not a zip file"
        why = "the end of the archive is missing; the file was cut short" if cut else error
        raise FileError(f"cannot read {path}: {why}. It is damaged, or not a .pt2 file.") from None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    data = bytearray(info.file_size)  # tensors are made over this memory, so it is not read into bytes first
    with cast("io.BufferedIOBase", archive.open(info)) as member:
        done = 0
        while done < len(data) and (more := member.readinto(memoryview(data)[done:])):
            done += more
        if done < len(data) or member.read(1):  # only reading past the end compares the CRC
            raise zipfile.BadZipFile(f"member {info.filename} is not as long as it claims")
    return data


def _wrong_members(infos: list[zipfile.ZipInfo], size: int) -> Iterator[str]:
    roots = {info.filename.partition("/")[0] for info in infos}
    names = [info.filename.partition("/")[2] for info in infos]
    if "archive_format" not in names or len(roots) != 1:
        yield "it is a zip archive, but not of the .pt2 format"
        return
    if len(set(names)) < len(names):
        yield "a member is there twice"
    if sum(info.file_size for info in infos) > size:
        yield "its members claim to be larger than the file"
    for name, info in zip(names, infos, strict=True):
        if _PICKLED.fullmatch(name):
            yield f"{name} is a pickled object, and reading one can run code"
        elif not _MEMBER.fullmatch(name):
            yield f"{name} has no place in the .pt2 file of a program"
        elif info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            yield f"{name} is compressed or encrypted"


def vet_program(text: bytes | bytearray, where: str, trusted: Collection[str] = ()) -> bytes:
    """The JSON of an exported program, without guards and without metadata that torch would resolve.

    Every symbolic expression in it is arithmetic, every name can stand in Python source, every
    operator belongs to torch, to dni_fx or to a library in `trusted`, and no value is pickled.

    Raises:
        FileError: the JSON holds anything else. Lists every such place.
    """
    try:
        program = json.loads(text)
        problems = list(_problems(program, _LIBRARIES.union(trusted)))
        cleaned = clean_program(program)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"cannot read {where}: it is not the JSON of a program ({error!r}).") from None
    refuse(f"refused to load {where}", problems)
    return cleaned


def clean_program(program: Any) -> bytes:
    """The JSON of a program without guards, and with what tells where a node is from in the model.

    The rest of a node's metadata shows the author's source and paths, and is resolved to Python objects
    when it is read. Changes `program`.
    """
    program["guards_code"] = []
    for place in _places(program):
        if "target" in place and "metadata" in place:
            kept = {key: place["metadata"][key] for key in _KEPT_METADATA if key in place["metadata"]}
            if not _PATH.fullmatch(kept.get(_STACK, "")):  # it names submodules when a program is unflattened
                del kept[_STACK]
            place["metadata"] = kept
    return json.dumps(program).encode()


def _places(program: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in the program, however deep."""
    todo = [program]
    while todo:
        place = todo.pop()
        if isinstance(place, dict):
            yield place
            todo.extend(place.values())
        elif isinstance(place, list):
            todo.extend(place)


def _problems(program: Any, libraries: Collection[str]) -> Iterator[str]:
    for symbol in program["range_constraints"]:
        if not is_symbol(symbol):
            yield f"the range of {symbol!r}: it is not the name of a size"
    for place in _places(program):
        for key, value in place.items():
            if why := _wrong_entry(key, value, libraries):
                yield f"{key} {value!r:.200}: {why}"


def _wrong_entry(key: str, value: Any, libraries: Collection[str]) -> str:
    match key, value:
        case "expr_str", _:
            return wrong_with(value)
        case (("target" | "as_operator"), str()):
            return _wrong_target(value, libraries)
        case (("name" | "as_name"), _):
            return "" if value is None else _wrong_names([value])
        case "forward_arg_names", list():
            return _wrong_names(value)
        case (("in_spec" | "out_spec"), str()):
            return _wrong_tree(value, is_input=key == "in_spec")
        case (("custom_obj" | "as_custom_obj"), _):
            return "it is an object that only unpickling could restore"
        case _ if key in _VALUE_TABLES:
            return _wrong_names(value)
        case _ if key in _PATHS and _PATH.fullmatch(value) is None:
            return "it has characters that the name of a module or parameter should not have"
        case _:
            return ""


def _wrong_names(names: Iterable[str]) -> str:
    """Node and argument names are pasted into the source of a forward method."""
    for name in names:
        if name and (not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name)):
            return f"{name!r} cannot be the name of a value"
    return ""


def _wrong_target(target: str, libraries: Collection[str]) -> str:
    if _OTHER_TARGET.fullmatch(target):
        return ""
    if (match := _OPERATOR.fullmatch(target)) is None:
        return "it is not an operator"
    library, operator, _ = match.groups()
    if library not in libraries:
        return (
            f"the library {library!r} is not known to be harmless; if you trust it, "
            f"name it in `trusted` (known: {', '.join(sorted(libraries))})"
        )
    return "it opens files" if library == "aten" and operator in _TOUCHES_FILES else ""


def _wrong_tree(text: str, *, is_input: bool) -> str:
    """Trees of arguments name Python types; a default factory or an enumeration would be imported."""
    _, tree = json.loads(text)
    if "__enum__" in text or "default_factory_module" in text or "collections.defaultdict" in text:
        return "it names Python objects to import"
    if is_input:  # the keywords of the call are pasted into the signature of a forward method
        return _wrong_names(json.loads(tree["children_spec"][1]["context"]))
    return ""
