"""Tables, descriptions and example inputs that claim what is not so."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from tests.hostile.good import META, STATE, TABLE, Cases, edited, members, put, with_member
from tests.hostile.graphs import CANARY

_HUGE = 10**12


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self.canary),)


def tables() -> Cases:
    meta = "config.*.tensor_meta"
    for path, value in [
        ("config.*.use_pickle", True),
        ("config.*.path_name", "../../../../etc/passwd"),
        ("config.*.path_name", "/etc/passwd"),
        ("config.*.path_name", "nobody"),
        ("config.*.path_name", 3),
        ("config.*.path_name", ["a"]),
        ("config.*.tensor_meta", None),
        (f"{meta}.sizes", [{"as_int": 99}]),
        (f"{meta}.sizes", [{"as_int": -1}]),
        (f"{meta}.sizes", [{"as_int": 2**62}, {"as_int": 2**62}]),
        (f"{meta}.sizes", [{"as_int": 2**80}]),
        (f"{meta}.sizes", [{"as_int": "9"}]),
        (f"{meta}.sizes", [{"as_expr": {"expr_str": f"__import__('{CANARY}')"}}] * 2),
        (f"{meta}.sizes", 4),
        (f"{meta}.strides", [{"as_int": 99}, {"as_int": 1}]),
        (f"{meta}.strides", [{"as_int": -1}, {"as_int": 1}]),
        (f"{meta}.strides", []),
        (f"{meta}.storage_offset", {"as_int": 10**9}),
        (f"{meta}.storage_offset", {"as_int": -1}),
        (f"{meta}.dtype", 77),
        (f"{meta}.dtype", 8),
        (f"{meta}.dtype", "float"),
        (f"{meta}.layout", 1),
        (f"{meta}.device.type", "nowhere"),
        (f"{meta}.device.type", "meta"),
        (f"{meta}.device.type", "fpga"),
        (f"{meta}.device", {"type": "cpu", "index": 2**70}),
        (f"{meta}.requires_grad", "yes"),
        ("config.*", []),
        ("config", []),
        ("config", {}),
    ]:
        for table in (TABLE, STATE):
            # The first tensor of the state is a number, of which some of this is true.
            if table == TABLE or not (path.endswith("strides") and not value):
                yield (
                    f"{table[5:11]} {path} {value!r:.40}",
                    edited(table, lambda t, p=path, v=value: put(t, p, v)),
                )
    yield "a tensor that repeats", edited(TABLE, _repeat)
    yield "a tensor that is not in the model", edited(TABLE, lambda t: _rename(t, "0.bias"))
    yield "a state that is not in it", edited(STATE, lambda t: _rename(t, "steps"))
    for text in (b"", b"[]", b"{", b'{"config": null}', b'{"config": {"a": NaN}}', b"\xff", b"[" * 10**5):
        yield f"table {text[:20]!r}", with_member(TABLE, text)


def descriptions() -> Cases:
    for path, value in [
        *(("version", each) for each in (0, -1, 2, 10**30, "1", 1.5, True, None, [1])),
        *(("meta", each) for each in ([], None, "text", {})),
        ("meta.model", 3),
        ("meta.model", "A\0B"),
        ("meta.plan", []),
        ("meta.plan.version", 99),
        ("meta.plan.stage_of", {}),
        ("meta.plan.stage_of.*", _HUGE),
        ("meta.plan.stage_of.*", -1),
        ("meta.plan.stage_of.*", "0"),
        ("meta.plan.time", {"0": 0}),
        ("meta.plan.joint", 3),
        ("meta.synthesizers", {}),
        ("meta.synthesizers", []),
        ("meta.synthesizers.*", "nobody"),
        ("meta.synthesizers.*", "os:system=1"),
        ("meta.synthesizers.*", f"mlp:hidden={_HUGE}"),
        ("meta.synthesizers.*", "mlp:hidden=60000"),
        ("meta.synthesizers.*", f"mlp:depth={_HUGE}"),
        ("meta.synthesizers.*", "mlp:hidden=9"),
        ("meta.synthesizers.*", "linear"),
        ("meta.synthesizers.*", 3),
        ("meta.interfaces", {}),
        ("meta.interfaces.*", "dni:mix=7"),
        ("meta.interfaces.*", "nobody"),
        ("meta.interfaces.*", "dni:lr=0"),
        ("meta.interfaces.*", None),
        ("meta.classes", _HUGE),
        ("meta.classes", "3"),
        ("meta.classes", -3),
        ("meta.boundaries", {}),
        ("meta.boundaries", []),
        ("meta.boundaries.*", "nobody"),
        ("meta.context", 3),
        ("meta.history", [3]),
        ("meta.trainable", [[]]),
        ("meta.order", 3),
        ("meta.order", [{}]),
        ("meta.call", None),
        ("meta.call.names", []),
        ("meta.call.names", ["a", "b"]),
        ("meta.call.constants", [[0, 1]]),
        ("meta.call.constants", [[7, 1]]),
        ("meta.call.constants", [3]),
        ("meta.call.parameters", [["a b", 1, False]]),
        ("meta.call.parameters", [["a", 9, False]]),
        ("meta.call.parameters", [["a", 1, False]] * 2),
        ("meta.call.parameters", [3]),
        ("meta.carry", {"paths": {"nobody": "1"}}),
        ("meta.carry", {"paths": {"input": "__class__.__base__"}}),
        ("meta.carry", []),
        ("meta.literals", {"train": [[0, "code", "1"]]}),
        ("meta.literals", {"train": [["0"]]}),
        ("meta.missing", 3),
    ]:
        yield f"{path} {value!r:.40}", edited(META, lambda m, p=path, v=value: put(m, p, v))
    for text in (b"", b"[]", b"{", b'{"version": 1}', b'{"version": 1, "meta": Infinity}', b"9" * 5000):
        yield f"description {text[:20]!r}", with_member(META, text)
    yield "a description of many megabytes", with_member(META, members()[META] + b" " * 2**26)


def example_inputs(canary: Path) -> Cases:
    for said, value in {
        "a bomb": Bomb(canary),
        "a bomb among tensors": ((torch.ones(2, 4), Bomb(canary)), {}),
        "no tuple": [torch.ones(2, 4)],
        "nothing": (),
        "one tensor": torch.ones(2, 4),
        "two inputs": ((torch.ones(2, 4), torch.ones(2, 4)), {}),
        "a number": ((1,), {}),
        "keywords": ((), {"input": torch.ones(2, 4)}),
        "another shape": ((torch.ones(2, 5),), {}),
        "a repeated number": ((torch.ones(1).expand(2, 2**40),), {}),
        "a list that doubles, forty times": (_doubling(), {}),
        "an ordered dictionary": (collections.OrderedDict(a=1), {}),
        "no memory": ((torch.ones(2, 4, device="meta"),), {}),
    }.items():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        yield f"example: {said}", with_member("data/sample_inputs/model.pt", buffer.getvalue())
    yield "example: a plain bomb", with_member("data/sample_inputs/model.pt", pickle.dumps(Bomb(canary)))
    yield "example: packed", with_member("data/sample_inputs/model.pt", _compressed())
    good = members()["data/sample_inputs/model.pt"]
    for kept in (1, 100, len(good) // 2, len(good) - 1):
        yield f"example: cut after {kept}", with_member("data/sample_inputs/model.pt", good[:kept])


def _doubling() -> object:
    each: object = torch.ones(2, 4)
    for _ in range(40):
        each = (each, each)
    return each


def _compressed() -> bytes:
    """Example inputs that unpack to many times their size."""
    source, buffer = io.BytesIO(), io.BytesIO()
    torch.save(((torch.zeros(2**20),), {}), source)
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in given.namelist():
            archive.writestr(name, given.read(name))
    return buffer.getvalue()


def _repeat(table: Any) -> None:
    meta = table["config"]["0.weight"]["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 2**40}] * 2, [{"as_int": 0}] * 2


def _rename(table: Any, name: str) -> None:
    table["config"]["another.x"] = table["config"].pop(name)
