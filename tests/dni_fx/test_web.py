"""A folder is trained by JavaScript as it is by Python."""

import json
import re
import threading
import tomllib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors

import dni_fx.device
from dni_fx.device import WEB
from tests.browsers import LIBRARY, needs_node, node, packages
from tests.device_nets import CASES, written
from tests.turns import shared_folder

pytestmark = needs_node
MODES = ("decoupled", "exact")
COUNT = 6
TRAINED = ("tied", "two_heads", "norm_and_dropout", "norm_twice", "images", "words")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return shared_folder(tmp_path_factory)


@pytest.fixture(scope="module", params=TRAINED)
def trained(request, shared, tmp_path_factory):
    """A case, its folder, what JavaScript says of its training in each mode, and its weights."""
    fetched, folder = packages(shared), written(request.param, shared)
    case, out = CASES[request.param], tmp_path_factory.mktemp("trained")
    pairs = [{f"x{at}": x.numpy(), f"y{at}": y.numpy()} for at, (x, y) in enumerate(case.batches(COUNT))]
    save_file({name: each for pair in pairs for name, each in pair.items()}, out / "batches.safetensors")
    return case, folder, json.loads(node("train.mjs", fetched, LIBRARY, folder, out)), out


def in_python(case, folder, mode):
    """The session of a folder after the same batches, and its losses."""
    session = dni_fx.device.open(folder, mode=mode, seed=3)
    return session, [session.step(x.numpy(), y.numpy()) for x, y in case.batches(COUNT)]


def close(found, wanted, slack):
    found, wanted = (np.nan_to_num(np.asarray(each, np.float64), neginf=-7) for each in (found, wanted))
    return np.linalg.norm(np.subtract(found, wanted)) <= slack * (np.linalg.norm(wanted) + 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_losses_weights_and_predictions_are_those_of_python(trained, mode):
    case, folder, found, out = trained
    slack = case.tolerance / 10
    session, losses = in_python(case, folder, mode)
    batches = [(x.numpy(), y.numpy()) for x, y in case.batches(COUNT)]
    assert close(found[mode]["losses"], losses, slack)
    wanted, got = session.weights(), load_file(out / f"{mode}.safetensors")
    assert got.keys() == wanted.keys()
    assert all(got[key].dtype == wanted[key].dtype and got[key].shape == wanted[key].shape for key in wanted)
    assert [key for key in wanted if not close(got[key], wanted[key], slack)] == []
    outputs = session.predict(batches[0][0])
    told = [np.reshape(list(map(float, each["data"])), each["dims"]) for each in found[mode]["outputs"]]
    assert all(close(one, other, slack) for one, other in zip(told, outputs, strict=True))
    score = session.evaluate(batches)
    assert found[mode]["score"] == pytest.approx(score, rel=slack)
    assert found[mode]["steps"] == session.steps == COUNT


@pytest.mark.parametrize("mode", MODES)
def test_saved_weights_load_into_the_model_in_pytorch(trained, mode):
    case, _, found, out = trained
    cut = case.cut()
    left = cut.load_state_dict(load_tensors(out / f"{mode}.safetensors"), strict=False)
    assert not left.unexpected_keys
    assert not set(left.missing_keys) & {key for key, _ in case.net().named_parameters()}
    with torch.no_grad():
        outputs = cut.eval()(next(case.batches())[0])
    told = [np.reshape(list(map(float, each["data"])), each["dims"]) for each in found[mode]["outputs"]]
    wanted = [each.numpy() for each in (outputs if isinstance(outputs, tuple) else [outputs])]
    assert all(close(one, other, 1e-5) for one, other in zip(told, wanted, strict=True))


def test_a_folder_is_trained_from_an_address_as_from_a_disk(shared, tmp_path):
    fetched, folder = packages(shared), written("norm_and_dropout", shared)
    x, y = next(CASES["norm_and_dropout"].batches())
    save_file({"x0": x.numpy(), "y0": y.numpy()}, tmp_path / "batches.safetensors")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/{folder.name}"
        fetched_found = node("train.mjs", fetched, LIBRARY, address, tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert json.loads(fetched_found) == json.loads(node("train.mjs", fetched, LIBRARY, folder, tmp_path))


def test_a_session_takes_turns_refuses_what_is_no_batch_and_goes_on_from_what_it_flushed(shared):
    fetched, folder = packages(shared), written("norm_and_dropout", shared)
    assert node("session.mjs", fetched, LIBRARY, folder) == "kept\n"


def test_tensors_are_those_of_safetensors_and_a_damaged_file_is_an_error(tmp_path):
    given = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        'é "quoted"': np.asarray(2.5),
        "far": np.asarray([-(2**62), 3]),
        "whole": np.asarray([[7]], np.int32),
        "bytes": np.asarray([255, 0, 1], np.uint8),
        "truths": np.asarray([True, False]),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(given, tmp_path / "in", {"written by": "Python"})
    assert node("tensors.mjs", LIBRARY, tmp_path / "in", tmp_path / "out") == "refused\n"
    found = load_file(tmp_path / "out")
    assert found.keys() == given.keys()
    for name, each in given.items():
        assert (found[name].dtype, found[name].shape) == (each.dtype, each.shape)
        assert (found[name] == each).all()


def test_all_that_lies_there_is_part_of_the_package():
    told = tomllib.loads((WEB.parents[2] / "pyproject.toml").read_text("utf-8"))
    globs = told["tool"]["setuptools"]["package-data"]["dni_fx.device"]
    assert {path for each in globs for path in WEB.parent.glob(each)} == set(WEB.iterdir())
    assert LIBRARY in set(WEB.iterdir())


@pytest.mark.parametrize("file", sorted(WEB.glob("*.js")), ids=lambda path: path.stem)
def test_a_file_is_short_and_imports_its_neighbors_alone(file):
    text = file.read_text("utf-8")
    assert len(text.splitlines()) < 300
    code = re.sub(r"/\*\*.*?\*/", "", text, flags=re.DOTALL)
    imported = set(re.findall(r'from "([^"]+)"|import\("([^"]+)"\)', code))
    names = {name for pair in imported for name in pair if name}
    assert {name for name in names if not (file.parent / name).is_file()} <= {"onnxruntime-web"}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
