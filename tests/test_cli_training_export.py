"""`dni-fx export --form training` writes a folder that a device trains."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import dni_fx.demo
import dni_fx.device
from tests.commands import MLP, in_an_empty_folder, refusal, run

__all__ = ["in_an_empty_folder"]

ASKED = f"export {MLP} --plan balanced:stages=2 --synthesizer zero --form training --optimizer sgd --lr 0.05"


def test_a_device_learns_from_the_folder_that_a_command_writes():
    said = run(f"{ASKED} -o step")
    assert said.startswith("wrote step: ")
    assert "input sizes vary" in said
    data = dni_fx.demo.clusters()
    x, y = (data[key].numpy() for key in ("x_train", "y_train"))
    session = dni_fx.device.open("step", mode="exact")
    before = session.evaluate([(x, y)])
    for at in range(0, 320, 32):
        session.step(x[at : at + 32], y[at : at + 32])
    after = session.evaluate([(x, y)])
    assert after["loss"] < before["loss"]
    assert session.rate == 0.05
    session.save("trained.safetensors")
    model, _ = dni_fx.demo.mlp()
    model.load_state_dict(load_file("trained.safetensors"))
    with torch.no_grad():
        expected = model(torch.from_numpy(x[:8])).numpy()
    assert np.allclose(session.predict(x[:8])[0], expected, atol=1e-5)


def test_a_dry_run_writes_nothing_and_tells_all():
    told = json.loads(run(f"{ASKED} -o step --dry-run --json"))
    assert told["dry_run"] is True
    assert told["bytes"] > 100_000
    assert not list(Path.cwd().iterdir())


def test_what_cannot_be_trained_so_is_refused():
    assert "no training exporter named 'onnx'" in refusal(f"{ASKED} --exporter onnx -o step")
    assert "window=2, which has no graph" in refusal(f"{ASKED} --interface dni:window=2 -o step")
    Path("full").mkdir()
    Path("full/theirs").touch()
    assert "it holds theirs, which no export wrote. Name a new or an empty folder" in refusal(
        f"{ASKED} -o full"
    )
    assert "cannot read --example here: 8xx" in refusal(f"{ASKED} --target 8xx -o step")
