"""Checkpoints of runs that were damaged or made to do harm are refused, and nothing in them is run."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.training.checkpoint import read_checkpoint
from tests.hostile.contents import Bomb
from tests.hostile.watch import watched


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    batch = torch.randn(4, 5), torch.randint(3, (4,))
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    cut = dni_fx.decouple(model, batch[:1], plan="balanced:stages=2", synthesizer="linear")
    dni_fx.Trainer(cut, loss=F.cross_entropy).fit([batch] * 2, epochs=1, checkpoint=tmp_path / "run.ckpt")
    assert read_checkpoint(tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


def hostile(path: Path, canary: Path):
    good = path.read_bytes()
    for kept in (0, 1, 100, len(good) // 2, len(good) - 1):
        yield f"cut after {kept}", good[:kept]
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        contents = {info.filename: archive.read(info) for info in infos}
    for info in infos:
        if (info.file_size and "/data/" in info.filename) or info.filename.endswith(".pkl"):
            # Torch pads members, and says so in the header in front of each.
            (extra,) = good[info.header_offset + 28 : info.header_offset + 29]
            changed = bytearray(good)
            changed[info.header_offset + 30 + len(info.filename) + extra + info.file_size // 2] ^= 1
            yield f"a bit in {info.filename}", bytes(changed)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    yield "packed members", packed.getvalue()
    for said, value in {
        "a bomb": Bomb(canary),
        "a bomb among entries": {"dni_fx_checkpoint": 1, "model": Bomb(canary)},
        "no version": {"model": {}},
        "a newer version": {"dni_fx_checkpoint": 99},
        "a version of text": {"dni_fx_checkpoint": "1"},
        "entries missing": {"dni_fx_checkpoint": 1, "model": {}},
        "a list": [1],
    }.items():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        yield said, buffer.getvalue()
    yield "a plain bomb", pickle.dumps(Bomb(canary))


def test_hostile_checkpoints_are_refused_and_nothing_is_run(checkpoint: Path) -> None:
    canary = checkpoint.parent / "canary"
    wrong = []
    for said, content in list(hostile(checkpoint, canary)):
        checkpoint.write_bytes(content)
        with watched() as seen:
            try:
                read_checkpoint(checkpoint)
                wrong.append(f"{said}: it was read")
            except dni_fx.DniError as error:
                wrong += [] if "run.ckpt" in str(error) else [f"{said}: {error}"]
        wrong += [f"{said}: {each}" for each in seen]
    assert not wrong
    assert not canary.exists()
