"""Tensors as members of a `.pt2` file, in the layout that torch gives them there.

One member holds the memory that some tensors share; a table of JSON says where in it each of
them lies. Tables may point to the members of other tables, which is how two programs share
their weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.serde import schema

from dni_fx.errors import FileError, first_line
from dni_fx.json_types import parse_json, wrong_types
from dni_fx.members import refuse
from dni_fx.sample_inputs import oversized

# The numbers are torch's, from the schema of exported programs.
_DTYPES = {
    torch.uint8: 1,
    torch.int8: 2,
    torch.int16: 3,
    torch.int32: 4,
    torch.int64: 5,
    torch.float16: 6,
    torch.float32: 7,
    torch.float64: 8,
    torch.complex32: 9,
    torch.complex64: 10,
    torch.complex128: 11,
    torch.bool: 12,
    torch.bfloat16: 13,
    torch.uint16: 28,
    torch.float8_e4m3fn: 29,
    torch.float8_e5m2: 30,
    torch.float8_e4m3fnuz: 31,
    torch.float8_e5m2fnuz: 32,
}
_OF_NUMBER = {number: dtype for dtype, number in _DTYPES.items()}
_STRIDED = 7
_MOST_TOLD = 20

Write = Callable[[str, "bytes | memoryview[int]"], None]
Table = dict[str, dict[str, Any]]


class PayloadWriter:
    """Writes each memory once, however many tensors of however many tables lie in it.

    All tables are given at once, since what they have in common decides how much of a memory is written.
    """

    def __init__(self, write: Write, tables: Iterable[Mapping[str, Tensor]]) -> None:
        self._write = write
        self._spans: dict[tuple[int, torch.dtype], tuple[int, int]] = {}
        self._members: dict[tuple[str, int, torch.dtype], str] = {}
        self._counts: dict[str, int] = {}
        for table in tables:
            for name, tensor in table.items():
                _check(name, tensor)
                start, stop = _span(tensor)
                low, high = self._spans.get(_memory(tensor), (start, stop))
                self._spans[_memory(tensor)] = min(low, start), max(high, stop)

    def table(self, tensors: Mapping[str, Tensor], prefix: str) -> bytes:
        """Write the memory of the tensors as members `prefix0`, `prefix1`, ..., and return their table."""
        config = {name: self._entry(tensor, prefix) for name, tensor in tensors.items()}
        return json.dumps({"config": config}).encode()

    def _entry(self, tensor: Tensor, prefix: str) -> dict[str, Any]:
        start, _ = self._spans[_memory(tensor)]
        return {
            "path_name": self._member(tensor, prefix).rpartition("/")[2],
            "is_param": isinstance(tensor, nn.Parameter),
            "use_pickle": False,
            "tensor_meta": {
                "dtype": _DTYPES[tensor.dtype],
                "sizes": [{"as_int": size} for size in tensor.shape],
                "requires_grad": tensor.requires_grad,
                "device": {"type": tensor.device.type, "index": tensor.device.index},
                "strides": [{"as_int": stride} for stride in tensor.stride()],
                "storage_offset": {"as_int": tensor.storage_offset() - start if tensor.numel() else 0},
                "layout": _STRIDED,
            },
        }

    def _member(self, tensor: Tensor, prefix: str) -> str:
        """The member that holds the tensor's memory, written now if it has not been."""
        key = (prefix, *_memory(tensor))
        if key not in self._members:
            count = self._counts[prefix] = self._counts.get(prefix, -1) + 1
            self._members[key] = f"{prefix}{count}"
            start, stop = self._spans[_memory(tensor)]
            flat = tensor.detach().as_strided((stop - start,), (1,), start).cpu()
            self._write(self._members[key], flat.view(torch.uint8).numpy().data)
        return self._members[key]


class PayloadReader:
    """Makes tensors over members of a file. Equal entries of any tables give one tensor, so ties are back.

    With a `device` all are made there, whatever the file says.
    """

    def __init__(
        self, path: Path, members: Mapping[str, bytearray], device: torch.device | None = None
    ) -> None:
        self.device = device
        self._path = path
        self._members = members
        self._made: dict[str, Tensor] = {}
        self._memories: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def tensors(self, table: str, folder: str) -> dict[str, Tensor]:
        """The tensors of a table, in the table's order.

        Raises:
            FileError: the table is missing, or an entry is pickled or reaches out of its member.
        """
        if table not in self._members:
            raise FileError(f"cannot read {self._path}: it has no {table}, so it was not written whole.")
        try:
            content = parse_json(self._members[table])
            problems = list(wrong_types(content, schema.PayloadConfig, closed="_Union"))
            refuse(f"cannot read {self._path}: {table} is no table of tensors", problems[:_MOST_TOLD])
            config: Table = content["config"]
            return {name: self._tied(folder, entry) for name, entry in config.items()}
        except FileError:
            raise
        except Exception as error:  # whatever torch finds wrong with sizes, in the types it happens to raise
            why = first_line(error) if isinstance(error, RuntimeError) else repr(error)
            raise FileError(f"cannot read {self._path}: {table} does not fit the file: {why}.") from error

    def _tied(self, folder: str, entry: dict[str, Any]) -> Tensor:
        key = json.dumps([folder, entry], sort_keys=True)
        if key not in self._made:
            self._made[key] = self._tensor(f"{folder}/{entry['path_name']}", entry)
        return self._made[key]

    def _tensor(self, member: str, entry: dict[str, Any]) -> Tensor:
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise FileError(
                f"refused to load {self._path}: {member} is pickled, and reading it can run code."
            )
        if meta["layout"] != _STRIDED:
            raise ValueError(f"{member} is not a plain strided tensor")
        if meta["dtype"] not in _OF_NUMBER:
            raise ValueError(f"{member} is of a type with the number {meta['dtype']}, which is not known")
        flat = self._memory(member, _OF_NUMBER[meta["dtype"]], self._device(member, meta["device"]))
        sizes, strides = _integers(meta["sizes"]), _integers(meta["strides"])
        if not flat.numel() and math.prod(sizes):
            raise ValueError(f"{member} is empty")
        tensor = flat.as_strided(sizes, strides, *_integers([meta["storage_offset"]]))
        if why := oversized(tensor, len(self._members[member])):
            raise ValueError(f"{member} {why}")
        if entry["is_param"]:
            return nn.Parameter(tensor, requires_grad=meta["requires_grad"])
        return tensor.requires_grad_(meta["requires_grad"])

    def _device(self, member: str, described: dict[str, Any]) -> torch.device:
        device = self.device or torch.device(
            *(each for each in (described["type"], described.get("index")) if each is not None)
        )
        if device.type == "meta":
            if self.device:
                raise FileError(
                    f"cannot read {self._path} to the meta device, where there are no numbers: name another "
                    "one, such as map_location='cpu'."
                )
            raise ValueError(f"{member} is on the meta device, where there are no numbers")
        try:
            torch.empty(0, device=device)
        except Exception as error:  # each kind of device says in another type that it is not there
            what = "it was asked for" if self.device else f"{member} was"
            raise FileError(
                f"cannot read {self._path}: {what} on {device}, and here that is not to be had "
                f"({first_line(error):.100}). Read it to the CPU (map_location='cpu'), or save it from there."
            ) from None
        return device

    def _memory(self, member: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """All of a member, made once, so that tensors which shared memory share it again."""
        key = member, dtype, device
        if key not in self._memories:
            if (data := self._members.get(member)) is None:
                raise ValueError(f"there is no {member}")
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self._memories[key] = flat.to(device)
        return self._memories[key]


def _integers(sizes: Iterable[dict[str, int]]) -> list[int]:
    return [int(size["as_int"]) for size in sizes]


def _check(name: str, tensor: Tensor) -> None:
    plain = (
        type(tensor.detach()) is Tensor and tensor.layout is torch.strided and tensor.device.type != "meta"
    )
    if not plain or tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.dtype not in _DTYPES:
        raise FileError(
            f"cannot write the tensor {name}: {type(tensor).__name__} of {tensor.dtype} on {tensor.device} "
            "is not plain memory. Make it a plain strided tensor first."
        )


def _memory(tensor: Tensor) -> tuple[int, torch.dtype]:
    return tensor.untyped_storage().data_ptr(), tensor.dtype


def _span(tensor: Tensor) -> tuple[int, int]:
    """Which elements of its memory the tensor covers. A tensor without elements covers none."""
    if not tensor.numel():
        return 0, 0
    start = int(tensor.storage_offset())
    return start, start + 1 + sum(
        (n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)
    )
