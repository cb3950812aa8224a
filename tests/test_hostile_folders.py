"""Folders of interfaces that were damaged or made to do harm are refused, and nothing in them is run."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dni_fx
from tests.hostile.contents import Bomb
from tests.hostile.headers import HEADERS
from tests.hostile.watch import watched

pytest.importorskip("safetensors")

EXAMPLE = (torch.zeros(6, 4),)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def edited_folder(folder: Path, **changes: Any) -> Path:
    path = folder / "dni_fx.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def _hostile(folder: Path, canary: Path) -> Iterator[str]:
    """Change a good folder in one way after another; what is yielded says how."""
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    (numbers,) = (name for name in good if name.endswith(".safetensors"))
    described = json.loads(good["dni_fx.json"])

    def reset() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name, content in good.items():
            (folder / name).write_bytes(content)

    name = next(iter(described["synthesizers"]))
    for key, value in [
        *(("version", each) for each in (0, -1, "1", None, 2**80)),
        *(("numbers", each) for each in ("../x.safetensors", "/etc/passwd", "x.pt", "", 3, None)),
        ("sha256", "0" * 64),
        ("base", {}),
        ("plan", {}),
        ("plan", described["plan"] | {"stage_of": {"0": 10**12}}),
        ("plan", described["plan"] | {"version": 9}),
        ("synthesizers", {}),
        ("synthesizers", {name: "nobody"}),
        ("synthesizers", described["synthesizers"] | {name: f"mlp:hidden={10**12}"}),
        ("synthesizers", described["synthesizers"] | {name: "mlp:hidden=60000"}),
        ("synthesizers", described["synthesizers"] | {name: "linear"}),
        ("interfaces", {name: "dni:mix=9"}),
        ("frontend", "nobody"),
        ("classes", 10**12),
        ("carry", {"paths": 3}),
        ("context", 3),
    ]:
        reset()
        yield f"{key} {str(edited_folder(folder, **{key: value})) and value!r:.40}"
    for text in (b"", b"[]", b"{", b"\xff", b"[" * 10**5, b'{"version": NaN}', b" " * 2**26 + b"{}"):
        reset()
        (folder / "dni_fx.json").write_bytes(text)
        yield f"description {text[:10]!r}"
    for said, content in HEADERS.items() | {("a pickle", pickle.dumps(Bomb(canary)))}:
        reset()
        digest = hashlib.sha256(content).hexdigest()
        (folder / f"dni_fx-{digest[:16]}.safetensors").write_bytes(content)
        edited_folder(folder, numbers=f"dni_fx-{digest[:16]}.safetensors", sha256=digest)
        yield said
    for at in range(0, len(good[numbers]), len(good[numbers]) // 9):
        reset()
        changed = bytearray(good[numbers])
        changed[at] ^= 1
        (folder / numbers).write_bytes(changed)
        yield f"a bit at {at}"
    for lost in good:
        reset()
        (folder / lost).rename(folder.parent / "elsewhere")
        yield f"without {lost}"
        (folder / lost).symlink_to(folder.parent / "elsewhere")
        yield f"{lost} is a link"


def test_hostile_folders_are_refused_and_nothing_is_run(tmp_path: Path) -> None:
    folder, canary = tmp_path / "shared", tmp_path / "canary"
    dni_fx.save_interfaces(
        dni_fx.decouple(net(), EXAMPLE, plan="balanced:stages=3", synthesizer="mlp:hidden=8"), folder
    )
    model, seen_all = net(), list[str]()
    for said in _hostile(folder, canary):
        with watched() as seen:
            try:
                dni_fx.from_pretrained(model, folder, EXAMPLE)
                seen_all.append(f"{said}: it was loaded")
            except (dni_fx.DniError, dni_fx.GraphError) as error:
                if len(str(error)) > 5_000:
                    seen_all.append(f"{said}: {error}")
        seen_all += [f"{said}: {each}" for each in seen]
    assert not seen_all
    assert not canary.exists()
