"""A cut file back to the plain model: its graph and its weights, without dni_fx."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dni_fx
from dni_fx import demo
from tests.commands import MLP, in_an_empty_folder, module, refusal, run
from tests.equality import assert_same

__all__ = ["in_an_empty_folder"]


def trained():
    """A cut file whose weights are no longer those of the model that it was made from."""
    run(f"train {MLP} --data dni_fx.demo:clusters --batch-size 512 --plan balanced:stages=3 -o cut.pt2")
    return dni_fx.recouple(dni_fx.load("cut.pt2"))


def test_a_pt2_file_computes_what_the_trained_model_computes_and_needs_no_dni_fx(tmp_path):
    model = trained().eval()
    assert run("recouple cut.pt2 -o plain.pt2") == "wrote plain.pt2: 8 tensors\n"
    x = torch.randn(7, demo.FEATURES)
    torch.save(x, "x.pt")
    script = (
        "import sys, torch\n"
        "program = torch.export.load('plain.pt2')\n"
        "torch.save((program.module()(torch.load('x.pt')), program.state_dict), 'y.pt')\n"
        "assert 'dni_fx' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    y, state = torch.load("y.pt", weights_only=False)
    assert_same(y, model(x).detach())
    assert_same(dict(state), dict(model.state_dict()))


def test_the_plain_file_can_be_cut_by_the_same_plan():
    trained()
    run("recouple cut.pt2 -o plain.pt2")
    plan = run("plan cut.pt2 -o -")
    assert json.loads(run("verify plain.pt2 --plan - --json", stdin=plan))["ok"]


@pytest.mark.parametrize("name", ["plain.safetensors", "plain.pt", "plain.pth"])
def test_a_state_dict_has_the_names_of_the_model_and_its_trained_weights(name):
    model = trained()
    run(f"recouple cut.pt2 -o {name}")
    state = load_file(name) if name.endswith("safetensors") else torch.load(name, weights_only=True)
    assert_same({key: state[key] for key in model.state_dict()}, dict(model.state_dict()))
    plain, _ = demo.mlp()
    plain.load_state_dict(state)
    assert "weights: equal" in run(f"diff cut.pt2 {name}")


def test_tied_weights_are_there_under_each_of_their_names(tmp_path):
    module(
        tmp_path,
        "tied_net",
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)\n"
        "        self.other.weight = self.one.weight\n"
        "    def forward(self, x):\n"
        "        return self.other(torch.tanh(self.one(x)))\n"
        "def make():\n    return Net(), torch.ones(3, 4)\n",
    )
    run("decouple tied_net:make --plan at:after=one -o cut.pt2")
    for name in ("plain.safetensors", "plain.pt", "plain.pt2"):
        run(f"recouple cut.pt2 -o {name}")
        assert "weights: equal" in run(f"diff cut.pt2 {name}")
    assert load_file("plain.safetensors").keys() == {"one.weight", "one.bias", "other.weight", "other.bias"}


def test_arguments_and_results_keep_their_form_and_statistics_go_along(tmp_path):
    module(
        tmp_path,
        "formed_net",
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.one, self.norm, self.two = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)\n"
        "    def forward(self, x, *, scale, twice=True):\n"
        "        y = self.two(torch.relu(self.norm(self.one(x)))) * scale\n"
        "        return {'y': y, 'both': (x, y + y if twice else y)}\n"
        "def make():\n    torch.manual_seed(0)\n"
        "    return Net(), {'x': torch.randn(3, 4), 'scale': torch.ones(3, 1), 'twice': False}\n",
    )
    run("decouple formed_net:make --plan at:after=norm -o cut.pt2")
    run("recouple cut.pt2 -o plain.pt2")
    x, scale = torch.randn(5, 4), torch.randn(5, 1)
    given = torch.export.load("plain.pt2").module()(x, scale=scale, twice=False)
    model = dni_fx.recouple(dni_fx.load("cut.pt2")).eval()
    assert_same(given, model(x=x, scale=scale, twice=False))
    assert "norm.running_mean" in torch.export.load("plain.pt2").state_dict


def test_the_graph_to_train_is_written_if_asked(tmp_path):
    module(
        tmp_path,
        "dropping_net",
        "def make():\n    layers = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)\n"
        "    return nn.Sequential(*layers), torch.ones(3, 4)\n",
    )
    run("decouple dropping_net:make --plan at:after=0 -o cut.pt2")
    for mode in ("eval", "train"):
        run(f"recouple cut.pt2 --mode {mode} -o {mode}.pt2")
        assert json.loads(run(f"inspect {mode}.pt2 --json"))["mode"] == mode


def test_what_cannot_be_turned_back_is_refused(tmp_path):
    assert "is not cut" in refusal(f"recouple {MLP} -o plain.pt2")
    assert "cannot write nowhere" in refusal(f"recouple {MLP} -o nowhere/plain.pt2")
    assert "is to be a .pt2, .safetensors, .pt or .pth file" in refusal(f"recouple {MLP} -o plain.onnx", 2)
    assert "--mode" in refusal(f"recouple {MLP} --mode train -o plain.pt", 2)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_there_keeps_its_rights_and_new_ones_get_the_usual_ones(tmp_path):
    run(f"decouple {MLP} -o cut.pt2")
    run("recouple cut.pt2 -o plain.safetensors")
    usual = tmp_path / "usual"
    usual.touch()
    assert (tmp_path / "plain.safetensors").stat().st_mode == usual.stat().st_mode
    (tmp_path / "plain.safetensors").chmod(0o640)
    run("recouple cut.pt2 -o plain.safetensors")
    assert (tmp_path / "plain.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_model_that_was_trained_further_is_not_what_it_was():
    before = nn.Module.state_dict(demo.mlp()[0])
    assert any(not torch.equal(before[name], each) for name, each in trained().state_dict().items())


SMALL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from dni_fx.cli import main
import dni_fx.cli.recouple, dni_fx.cli.models, safetensors.torch
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
sys.argv = ["dni-fx", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("name", ["plain.pt2", "plain.safetensors", "plain.pt"])
def test_a_file_that_finds_no_room_is_refused_in_one_message_and_what_was_there_stays(name, tmp_path):
    """The process was ended by torch, in a destructor."""
    run(f"decouple {MLP} -o cut.pt2")
    (tmp_path / name).write_bytes(b"old")
    command = [sys.executable, "-c", SMALL, "recouple", "cut.pt2", "-o", name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"dni-fx: cannot write {name}: ")
    assert "Traceback" not in done.stderr
    assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pt2", name]
