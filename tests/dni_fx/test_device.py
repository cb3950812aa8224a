"""A device trains as PyTorch does: decoupled as the runtime `local`, exact as plain backpropagation."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

import dni_fx
import dni_fx.device
from dni_fx.device.batches import Batch
from dni_fx.device.manifest import NAME, Tensor, read_manifest
from tests.device_nets import CASES, CLASSES, written
from tests.turns import shared_folder

pytest.importorskip("onnxruntime")


@pytest.fixture
def opened(tmp_path_factory, tmp_path):
    """A session on a copy of a folder."""
    shared = shared_folder(tmp_path_factory)

    def of(name, **options):
        if not (tmp_path / name).exists():
            shutil.copytree(written(name, shared), tmp_path / name)
        return dni_fx.device.open(tmp_path / name, **options)

    return of


def off(found, expected):
    gap = np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64))
    return float(gap / (np.linalg.norm(expected) + 1e-12))


def steps(session, case, count=10):
    return [session.step(x.numpy(), y.numpy()) for x, y in case.batches(count)]


@pytest.mark.parametrize("mode", ["decoupled", "exact"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.draws])
def test_ten_steps_are_those_of_pytorch(name, mode, opened):
    case, session = CASES[name], opened(name, mode=mode)
    found = steps(session, case)
    losses, model = case.trained(mode)
    assert max(abs(mine - theirs) for mine, theirs in zip(found, losses, strict=True)) < 1e-4
    state = model.state_dict()
    for key, value in session.weights().items():
        assert off(value, state[key].numpy()) < case.tolerance or not value.any(), key
    (x, _), *_ = case.batches()
    outputs = [each for each in tree_leaves(model.eval()(x)) if isinstance(each, torch.Tensor)]
    for mine, theirs in zip(session.predict(x.numpy()), outputs, strict=True):
        finite = np.isfinite(mine)
        assert np.array_equal(finite, theirs.isfinite().numpy())
        assert off(mine[finite], theirs.detach().numpy()[finite]) < case.tolerance


@pytest.mark.parametrize("mode", ["decoupled", "exact"])
def test_stages_that_are_streamed_train_as_those_that_stay(mode, opened, tmp_path):
    case, session = CASES["layers"], opened("layers", mode=mode)
    kept = steps(session, case)
    (tmp_path / "other").mkdir()
    shutil.rmtree(tmp_path / "layers")
    streamed = opened("layers", mode=mode, memory=1)
    assert steps(streamed, case) == kept
    assert len(streamed.store._held) == 1
    for key, value in session.weights().items():
        assert np.array_equal(value, streamed.weights()[key])


def test_what_is_flushed_goes_on_where_it_was(opened):
    case, whole = CASES["layers"], opened("layers")
    losses = steps(whole, case, 6)
    first = opened("layers")
    assert steps(first, case, 3) == losses[:3]
    first.flush()
    second = opened("layers")
    assert second.steps == 3
    rest = [*case.batches(6)][3:]
    assert [second.step(x.numpy(), y.numpy()) for x, y in rest] == losses[3:]
    assert opened("layers").steps == 3


def test_weights_go_back_to_pytorch_by_their_names(opened, tmp_path):
    case, session = CASES["images"], opened("images")
    steps(session, case)
    session.save(tmp_path / "trained.safetensors")
    model = case.net()
    missing = model.load_state_dict(load_file(tmp_path / "trained.safetensors"), strict=True)
    assert not missing.missing_keys
    (x, y), *_ = case.batches()
    (outputs,) = session.predict(x.numpy())
    with torch.no_grad():
        assert off(outputs, model.eval()(x).numpy()) < 1e-5
    judged = session.evaluate([(x.numpy(), y.numpy())])
    assert judged["loss"] == pytest.approx(float(F.cross_entropy(torch.tensor(outputs), y)), abs=1e-5)
    assert judged["accuracy"] == float((outputs.argmax(1) == y.numpy()).mean())
    again = opened("images")
    again.load(tmp_path / "trained.safetensors")
    assert np.array_equal(again.predict(x.numpy())[0], outputs)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
import dni_fx.device
session = dni_fx.device.open(sys.argv[1])
x, y = np.ones((4, 6), np.float32), np.arange(4)
losses = [session.step(x, y) for _ in range(5)]
session.save(sys.argv[2])
assert sys.modules["torch"] is None
print(losses[0] > losses[-1] > 0)
"""


def test_a_process_without_torch_trains(opened, tmp_path):
    opened("layers")
    asked = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "layers"), str(tmp_path / "out.safetensors")]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("True\n", "")
    assert load_file(tmp_path / "out.safetensors").keys() == CASES["layers"].net().state_dict().keys()


@pytest.mark.parametrize(
    ("inputs", "targets", "what"),
    [
        (np.ones((4, 5), np.float32), np.zeros(4, np.int64), "has shape (batch, 6), and (4, 5) is given"),
        (np.ones((4, 6)), np.zeros((4, 1), np.int64), "has shape (batch), and (4, 1) is given"),
        ({"y": np.ones((4, 6))}, np.zeros(4, np.int64), "missing: input"),
        (np.ones((4, 6)), np.zeros(4), "target is int64, and float64 is given"),
        (np.ones((4, 6)), {"target": np.zeros(4, int), "more": 1}, "and not more"),
        (
            np.ones((4, 6)),
            np.zeros(3, int),
            "the size batch is the same in all of a batch: input has 4, target has 3",
        ),
        (np.ones((0, 6)), np.zeros(0, int), "one sample at least"),
        (np.ones((4, 6)), None, "has shape (batch), and () is given"),
        ([[1.0], [2.0, 3.0]], np.zeros(2, int), "the input input is no array"),
        (torch.ones(4, 6).requires_grad_(), np.zeros(4, int), "the input input is no array"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(inputs, targets, what, opened):
    with pytest.raises(dni_fx.device.DeviceError, match=re.escape(what)):
        opened("layers").step(inputs, targets)


@pytest.mark.parametrize("batches", [(np.ones((4, 6)), np.zeros(4, int)), [np.ones(3)]])
def test_what_is_no_list_of_pairs_is_refused(batches, opened):
    with pytest.raises(dni_fx.device.DeviceError, match="pairs of inputs and targets"):
        opened("layers").evaluate(batches)


def test_sizes_of_other_names_vary_by_themselves(opened):
    manifest = replace(
        opened("layers").manifest,
        inputs=(
            Tensor("x", "v:x", "float32", ("batch", "size_1")),
            Tensor("z", "v:z", "float32", ("size_1",)),
        ),
        targets=(Tensor("y", "y", "int64", ("batch",)),),
    )
    given = {"x": np.ones((3, 5)), "z": np.ones(5)}
    assert Batch.of(manifest, given, np.zeros(3, int)).size == 3
    with pytest.raises(
        dni_fx.device.DeviceError, match="size size_1 is the same in all of a batch: x has 5, z has 2"
    ):
        Batch.of(manifest, {**given, "z": np.ones(2)}, np.zeros(3, int))


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_class_that_there_is_not_is_refused_and_what_has_moved_is_told(wrong, opened):
    session = opened("layers", mode="exact")
    before = session.weights()
    with pytest.raises(
        dni_fx.device.DeviceError, match=r"loss.onnx[^$]*stages that had taken theirs stay moved"
    ):
        session.step(np.ones((2, 6)), np.array([0, wrong]))
    assert session.steps == 0
    assert all(np.array_equal(value, session.weights()[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "option",
    [{"memory": "1GB"}, {"memory": -1}, {"rate": "x"}, {"rate": float("nan")}, {"rate": -1}, {"seed": 1.5}],
)
def test_an_option_that_is_no_number_is_refused(option, opened):
    (name,) = option
    with pytest.raises(dni_fx.device.DeviceError, match=f"^{name} is a "):
        opened("layers", **option)


def test_a_folder_that_is_not_whole_is_refused(opened, tmp_path):
    opened("layers")
    folder = tmp_path / "layers"
    with pytest.raises(dni_fx.device.DeviceError, match="dni-fx export --form training"):
        dni_fx.device.open(tmp_path / "nothing")
    told = json.loads((folder / NAME).read_text())
    for change in (
        {"format": "other"},
        {"version": 99},
        {"version": 1},
        {"orders": {**told["orders"], "exact": [{**told["orders"]["exact"][0], "graph": "x.onnx"}]}},
        {"stages": 3},
        {"loss": {**told["loss"], "file": "../x"}},
    ):
        (folder / NAME).write_text(json.dumps({**told, **change}))
        with pytest.raises(dni_fx.device.DeviceError):
            dni_fx.device.open(folder)
    (folder / NAME).write_text(json.dumps(told))
    (folder / "loss.onnx").rename(tmp_path / "loss.onnx")
    (folder / "loss.onnx").symlink_to(tmp_path / "loss.onnx")
    with pytest.raises(dni_fx.device.DeviceError, match="is a link"):
        dni_fx.device.open(folder)
    (tmp_path / "loss.onnx").replace(folder / "loss.onnx")
    (folder / "stage_1.safetensors").write_bytes(b"damaged")
    with pytest.raises(dni_fx.device.DeviceError, match="stage_1"):
        dni_fx.device.open(folder)


def test_a_manifest_is_read_as_it_was_written(tmp_path_factory):
    folder = written("tied", shared_folder(tmp_path_factory))
    known = read_manifest(folder)
    assert json.loads(known.to_json()) == json.loads((folder / NAME).read_text())
    assert known.shared is not None
    assert known.shared.names == ("scale", "twice.weight", "twice.bias")
    assert {each.name for each in folder.iterdir()} == set(known.files)
