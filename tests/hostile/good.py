"""A good file, its members, and files that are put together from changed ones."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dni_fx

Cases = Iterator[tuple[str, bytes]]
Members = dict[str, bytes]

GRAPH, TABLE = "models/model.json", "data/weights/model_weights_config.json"
STATE, META = "data/dni_fx/state_config.json", "extra/dni_fx.json"


@functools.cache
def good_file() -> bytes:
    """A cut model of three layers whose interfaces have learned a step; sizes of its graphs are open."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    cut = dni_fx.decouple(model, (torch.randn(2, 4),), plan="balanced:stages=2", synthesizer="mlp:hidden=8")
    cut(torch.randn(2, 4)).sum().backward()
    with tempfile.TemporaryDirectory() as folder:
        dni_fx.save(cut, Path(folder) / "good.pt2")
        return (Path(folder) / "good.pt2").read_bytes()


def members() -> Members:
    with zipfile.ZipFile(io.BytesIO(good_file())) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def packed(contents: Mapping[str, bytes], root: str = "archive/", **options: Any) -> bytes:
    """An archive of these members, with all its CRCs right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in contents.items():
            archive.writestr(f"{root}{name}", content)
    return buffer.getvalue()


def with_member(name: str, content: bytes | None) -> bytes:
    """The good file with one member changed, or without it."""
    changed = members()
    if content is None:
        del changed[name]
    else:
        changed[name] = content
    return packed(changed)


def edited(name: str, edit: Callable[[Any], object]) -> bytes:
    """The good file with one member of JSON edited."""
    content = json.loads(members()[name])
    edit(content)
    return with_member(name, json.dumps(content).encode())


def put(content: Any, path: str, value: object) -> None:
    """Put a value at a path such as `a.0.b` of parsed JSON; `*` is the first entry there is."""
    *before, last = path.split(".")
    for key in before:
        content = content[_key(content, key)]
    content[_key(content, last)] = value


def _key(content: Any, key: str) -> Any:
    if isinstance(content, list):
        return int(key)
    return next(iter(content)) if key == "*" else key
