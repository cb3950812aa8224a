"""Archives that are damaged or lie about themselves."""

from __future__ import annotations

import io
import pickle
import random
import struct
import warnings
import zipfile

import numpy as np
import torch

from tests.hostile.good import GRAPH, META, TABLE, Cases, good_file, members, packed, with_member


def cut_short() -> Cases:
    good = good_file()
    chance = random.Random(0)
    for kept in [0, 1, 3, 4, 21, 22, 30, len(good) - 1, len(good) - 22, len(good) - 23]:
        yield f"cut after {kept}", good[:kept]
    for _ in range(14):
        kept = chance.randrange(len(good))
        yield f"cut after {kept} ", good[:kept]


def flipped() -> Cases:
    """A bit in the middle of every member that is not empty, and in its name in the list of members."""
    good = good_file()
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        for info in archive.infolist():
            name = info.filename.encode()
            yield (
                f"flipped in {info.filename}",
                _flip(good, info.header_offset + 30 + len(name) + info.file_size // 2),
            )
        yield "flipped in the list of members", _flip(good, good.rindex(b"data/weights/weight_1") + 4)


def shuffled() -> Cases:
    contents = members()
    for one, other in [
        ("data/weights/weight_0", "data/weights/weight_1"),
        (GRAPH, META),
        (TABLE, GRAPH),
        ("data/dni_fx/state_1", "data/dni_fx/state_0"),
        ("data/sample_inputs/model.pt", "data/weights/weight_0"),
        ("archive_format", "byteorder"),
    ]:
        yield (
            f"{one} and {other} swapped",
            packed(contents | {one: contents[other], other: contents[one]}),
        )
    for name in contents:
        if name not in {".data/version", "byteorder", "data/sample_inputs/train.pt"}:
            yield f"without {name}", with_member(name, None)
    for name in ("data/weights/weight_0", "data/weights/weight_1", "data/dni_fx/state_1", GRAPH, META, TABLE):
        yield f"{name} empty", with_member(name, b"")


def misplaced() -> Cases:
    contents = members()
    for name in [
        "/etc/passwd",
        "../../x",
        "data/weights/../../x",
        "data\\weights\\x",
        "code/run.py",
        "data/aotinductor/model/a.so",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/weights/model.pt",
        "extra/" + "a" * 200,
        "a\nb",
        "",
    ]:
        yield f"a member {name!r:.40}", packed(contents | {name: b"x"})
    for root in ("", "a/b/", "../"):
        yield f"its root is {root!r}", packed(contents, root)
    yield "a second root", packed(contents | {"../other/x": b"x"}, "archive/")


def lying() -> Cases:
    contents, good = members(), good_file()
    yield "compressed", packed(contents, compression=zipfile.ZIP_DEFLATED)
    bomb = {**contents, "extra/bomb": bytes(8 * 2**20)}
    yield "a bomb of zeros", packed(bomb, compression=zipfile.ZIP_DEFLATED)
    yield "a member twice", _doubled(contents)
    yield "a link", _with_attributes(contents, 0o120777 << 16)
    yield "a folder", _with_attributes(contents, 0o040755 << 16)
    yield "encrypted", _patched(8, "<H", 1)
    yield "its CRC is another", _patched(16, "<L", 1)
    yield "one size is another", _patched(24, "<L", 2**31)
    yield "both sizes are huge", _patched(20, "<LL", 2**31, 2**31)
    yield "it claims the sizes of zip64", _patched(20, "<LL", 2**32 - 1, 2**32 - 1)
    yield "it needs a newer version", _patched(6, "<H", 99)
    yield "it is packed in an unknown way", _patched(10, "<H", 77)
    yield "on top of another member", _overlapping()
    yield "after a script", b"#!/bin/sh\ntouch canary\n" + good
    yield "before a script", good + b"\n#!/bin/sh\n"
    yield "a comment", good[:-2] + struct.pack("<H", 4) + b"text"
    yield "a list of members without end", good[:-10] + struct.pack("<L", 2**32 - 2) + good[-6:]
    yield "more members than there are", good[:-14] + struct.pack("<HH", 999, 999) + good[-10:]
    yield "a word of a megabyte", with_member("byteorder", b"little" * 2**17)


def other_kinds() -> Cases:
    state, arrays = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, state)
    np.savez(arrays, a=np.zeros(2))
    yield "a state dict", state.getvalue()
    yield "arrays", arrays.getvalue()
    yield "a pickle", pickle.dumps({"a": 1})
    yield "text", b"not an archive"
    yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(64)
    yield "an empty archive", packed({})
    yield "zeros", bytes(4096)


def _flip(good: bytes, at: int) -> bytes:
    return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]


def _doubled(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO(packed(contents))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(f"archive/{META}", b"{}")
    return buffer.getvalue()


def _with_attributes(contents: dict[str, bytes], attributes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(f"archive/{name}")
            info.external_attr = attributes if name == "extra/dni_fx.json" else 0o100644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def _patched(offset: int, form: str, *values: int) -> bytes:
    """The good file, with the entry of a weight in the list of members changed at an offset."""
    good = bytearray(good_file())
    start = good.rindex(b"PK\x01\x02", 0, good.rindex(b"data/weights/weight_1"))
    struct.pack_into(form, good, start + offset, *values)
    return bytes(good)


def _overlapping() -> bytes:
    """Two entries of the list of members name the same place in the file."""
    good = bytearray(good_file())
    entries = [good.rindex(b"PK\x01\x02", 0, good.rindex(f"state_{at}".encode())) for at in (4, 5)]
    (first,) = struct.unpack_from("<L", good, entries[0] + 42)
    struct.pack_into("<L", good, entries[1] + 42, first)
    return bytes(good)
