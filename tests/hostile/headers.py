"""Files of safetensors whose table is not what the file holds."""

from __future__ import annotations

import json
import struct


def _tensors(header: object, data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(*offsets: int, **changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2, 4], "data_offsets": list(offsets)} | changes


HEADERS = {
    "empty": b"",
    "short": b"\x08\0\0",
    "a huge header": _tensors({}, length=2**62),
    "a header beyond the file": _tensors({}, length=10**6),
    "no header": _tensors(b"["),
    "deep": _tensors(b"[" * 10**5),
    "overlapping": _tensors({"0.weight": _entry(0, 32), "0.bias": _entry(16, 48)}),
    "a hole": _tensors({"0.weight": _entry(0, 32), "0.bias": _entry(40, 64, shape=[6])}),
    "reversed": _tensors({"0.weight": _entry(32, 0)}),
    "outside": _tensors({"0.weight": _entry(0, 10**9, shape=[10**9 // 4])}),
    "another size": _tensors({"0.weight": _entry(0, 64)}),
    "a huge shape": _tensors({"0.weight": _entry(0, 64, shape=[2**62, 2**62])}),
    "a type that is none": _tensors({"0.weight": _entry(0, 64, dtype="PICKLE")}),
}
