"""Checkpoints of runs that were damaged or made to do harm are refused, and nothing in them is run."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
import dni_fx.tensor_files
import dni_fx.training.parts
from dni_fx.tensor_files import DESCRIPTION
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


def faults(said: str, path: Path) -> list[str]:
    """What is wrong with how a spoiled checkpoint is refused."""
    found = []
    with watched() as seen:
        try:
            read_checkpoint(path)
            found.append(f"{said}: it was read")
        except dni_fx.DniError as error:
            found += [] if path.name in str(error) else [f"{said}: {error}"]
    return found + [f"{said}: {each}" for each in seen]


def test_hostile_checkpoints_are_refused_and_nothing_is_run(checkpoint: Path) -> None:
    canary = checkpoint.parent / "canary"
    wrong = []
    for said, content in list(hostile(checkpoint, canary)):
        checkpoint.write_bytes(content)
        wrong += faults(said, checkpoint)
    assert not wrong
    assert not canary.exists()


def kept_in_a_folder(path: Path) -> Path:
    """The same run in a folder, as several processes keep it."""
    state = read_checkpoint(path)
    folder = path.with_name("folder")
    folder.mkdir()
    dni_fx.training.checkpoint.write_checkpoint(folder, [parted(state)], several=True)
    return folder


def parted(state):
    rest = {key: value for key, value in state.items() if key not in {"model", "updates"}}
    rest["updates"] = {"scaler": state["updates"]["scaler"]}
    return {"model": state["model"], "optimizers": state["updates"]["optimizers"], "rest": rest}


def spoiled(folder: Path):
    """Changes of a folder, each with what it does."""
    text = folder / DESCRIPTION
    (numbers,) = folder.glob("*.safetensors")
    described = json.loads(text.read_text())
    for at in range(0, numbers.stat().st_size, numbers.stat().st_size // 20):
        yield f"a bit at {at}", lambda at=at: flip(numbers, at)
    yield "no numbers", numbers.unlink
    yield "no text", text.unlink
    yield "numbers elsewhere", lambda: (numbers.rename(folder.parent / "x"), numbers.symlink_to("../x"))
    (shard,) = described["shards"]
    for said, changed in {
        "a newer version": {"dni_fx_run": 99},
        "a version of text": {"dni_fx_run": "1"},
        "no list": {"shards": shard},
        "no shards": {"shards": []},
        "a number": {"shards": [1]},
        "another folder": {"shards": [{**shard, "numbers": f"../{numbers.name}"}]},
        "twice": {"shards": [shard, {**shard, "sha256": "0" * 64}]},
    }.items():
        yield said, lambda changed=changed: text.write_text(json.dumps({**described, **changed}))


def filled_otherwise(folder: Path):
    """What is written into a folder as it should be, and is no state of a run."""
    for said, part in {
        "no entries": {},
        "a list": {"rest": [], "model": {}, "optimizers": {}},
        "entries missing": {"rest": {"updates": {}}, "model": {}, "optimizers": {}},
        "no weights": {"rest": {"updates": {}}, "model": 3, "optimizers": {}},
    }.items():
        yield said, lambda part=part: dni_fx.training.parts.write_parts(folder, [part])
    for said, tree in {
        "a deep tree": b'["list", [' * 20_000,
        "another tensor": b'["tensor", 99]',
        "another kind": b'["system", "ls"]',
        "a dtype of the interpreter": b'["dtype", "__builtins__"]',
        "no tree": b"\xff",
    }.items():
        yield (
            said,
            lambda tree=tree: dni_fx.tensor_files.write_shards(
                folder, {"dni_fx_run": 1}, [{"tree": torch.tensor(list(tree), dtype=torch.uint8)}]
            ),
        )


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_hostile_folders_are_refused_and_nothing_is_run(checkpoint: Path) -> None:
    folder = kept_in_a_folder(checkpoint)
    whole = folder.with_name("whole")
    shutil.copytree(folder, whole)
    assert read_checkpoint(folder)["model"].keys() == read_checkpoint(checkpoint)["model"].keys()
    wrong = []
    for said, spoil in [*spoiled(folder), *filled_otherwise(folder)]:
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        spoil()
        wrong += faults(said, folder)
    assert not wrong
