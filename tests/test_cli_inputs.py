"""The models and the data that a command line names, and training on them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dni_fx
from dni_fx import demo
from dni_fx.cli.data import Arrays
from dni_fx.cli.examples import read_example
from dni_fx.errors import CaptureError
from dni_fx.training.trainer import Trainer
from tests.commands import MLP, in_an_empty_folder, module, refusal, run

__all__ = ["in_an_empty_folder"]


def test_training_a_saved_cut_lowers_the_loss_and_saves_what_was_learned(tmp_path):
    run(f"decouple {MLP} --plan balanced:stages=3 -o cut.pt2")
    report = json.loads(run("train cut.pt2 --data dni_fx.demo:clusters --epochs 3 -o trained.pt2 --json"))
    losses = [epoch["loss"] for epoch in report["epochs"]]
    assert losses[0] > losses[1] > losses[2]
    assert report["test"]["accuracy"] > 0.9
    assert set(report["epochs"][0]["cosine"]) == set(dni_fx.boundaries(dni_fx.load("cut.pt2")))
    before, after = (dni_fx.load(name).state_dict() for name in ("cut.pt2", "trained.pt2"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again = json.loads(run("train trained.pt2 --data dni_fx.demo:clusters --json"))
    assert again["epochs"][0]["loss"] < losses[0]


def test_training_is_drawn_and_logged_if_asked(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    command = f"train {MLP} --data dni_fx.demo:clusters --batch-size 512"
    shown = run(f"{command} --plot plot.svg --tensorboard runs/first")
    assert shown.endswith("wrote plot.svg\nwrote runs/first\n")
    assert "<svg" in (tmp_path / "plot.svg").read_text("utf-8")
    assert [path.name.startswith("events.out") for path in (tmp_path / "runs/first").iterdir()] == [True]
    (epoch,) = json.loads(run(f"{command} --json"))["epochs"]
    assert all(mean["mix"] == 0 and not mean["locked"] for mean in epoch["boundaries"].values())
    assert epoch["cosine"] == {name: mean["cosine"] for name, mean in epoch["boundaries"].items()}


def test_the_same_seed_gives_the_same_training():
    command = f"train {MLP} --data dni_fx.demo:clusters --batch-size 256 --json --seed"
    one, same, other = (json.loads(run(f"{command} {seed}")) for seed in (1, 1, 2))
    assert one["test"] == same["test"]
    assert one["test"] != other["test"]


def test_the_learning_rate_and_the_optimizer_are_used():
    command = f"train {MLP} --data dni_fx.demo:clusters --batch-size 512 --json"
    still = json.loads(run(f"{command} --lr 0 --epochs 2"))
    assert still["epochs"][0]["loss"] == pytest.approx(still["epochs"][1]["loss"], rel=1e-6)
    adam, sgd = (json.loads(run(f"{command} --optimizer {name}")) for name in ("adam", "sgd"))
    assert adam["epochs"][0]["loss"] != sgd["epochs"][0]["loss"]


@pytest.mark.parametrize("choice", ["--runtime local", "--labels", "--synthesizer oracle"])
def test_other_ways_to_train_learn_too(choice):
    report = json.loads(run(f"train {MLP} --data dni_fx.demo:clusters --epochs 3 --json {choice}"))
    assert report["test"]["accuracy"] > 0.9


def test_arrays_in_a_file_train_a_regression(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 64))
    np.savez(tmp_path / "data.npz", x=x, y=x[:, :10])
    report = json.loads(run(f"train {MLP} --data data.npz --loss mse --epochs 2 --json"))
    assert report["epochs"][1]["loss"] < report["epochs"][0]["loss"]
    assert report["epochs"][0]["metrics"] == {}
    assert report["test"] == {}


@pytest.mark.parametrize(
    "returned",
    [
        "(torch.zeros(8, 64), torch.zeros(8).long())",
        "{'x': torch.zeros(8, 64), 'y': torch.zeros(8).long()}",
        "[(torch.zeros(8, 64), torch.zeros(8).long())]",
        "iter([(torch.zeros(8, 64), torch.zeros(8).long())])",
        "torch.utils.data.DataLoader([(torch.zeros(64), 0)] * 8, batch_size=8)",
    ],
)
def test_a_function_may_return_arrays_or_batches(returned, tmp_path):
    name = f"data_{sum(map(ord, returned))}"
    module(tmp_path, name, f"import torch.utils.data\ndef make():\n    return {returned}\n")
    module(tmp_path, f"net_{name}", "from dni_fx import demo\ndef make():\n    return demo.mlp()[0]\n")
    report = json.loads(run(f"train net_{name}:make --data {name}:make --epochs 2 --json"))
    assert [epoch["steps"] for epoch in report["epochs"]] == [1, 1]


def test_the_first_batch_is_the_example_of_a_model_that_comes_without(tmp_path):
    module(tmp_path, "no_example", "from dni_fx import demo\ndef make():\n    return demo.mlp()[0]\n")
    assert "test: loss" in run("train no_example:make --data dni_fx.demo:clusters --batch-size 512")
    assert "example" in refusal("verify no_example:make")
    assert "ok" in run("verify no_example:make --example 32x64")


def test_batches_hold_every_sample_once_in_a_new_order_each_pass():
    x = torch.arange(10)
    batches = Arrays(x, x, 4, seed=0)
    first, second = (torch.cat([batch for batch, _ in batches]) for _ in range(2))
    assert len(batches) == len(list(batches)) == 3
    assert torch.equal(first.sort().values, x)
    assert torch.equal(second.sort().values, x)
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([batch for batch, _ in Arrays(x, x, 4)]), x)


def test_a_module_of_the_working_directory_is_found_and_its_weights_are_loaded(tmp_path):
    module(
        tmp_path,
        "tiny",
        "net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))\n",
    )
    module(
        tmp_path,
        "tiny_factory",
        "import copy, tiny\ndef make():\n    return copy.deepcopy(tiny.net), torch.zeros(8, 4)\n",
    )
    run("inspect tiny_factory:make")
    state = {
        name: torch.full_like(tensor, 0.5) for name, tensor in sys.modules["tiny"].net.state_dict().items()
    }
    torch.save(state, tmp_path / "weights.pt")
    run("decouple tiny_factory:make --weights weights.pt -o cut.pt2")
    loaded = dni_fx.load("cut.pt2").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_pickled_module_is_refused_until_it_is_allowed(tmp_path):
    torch.save(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), tmp_path / "model.pt")
    said = refusal("inspect model.pt --example 8x4")
    assert "--allow-pickle" in said
    assert "runs any code" in said
    assert json.loads(run("inspect model.pt --example 8x4 --allow-pickle --json"))["parameters"] == 30


def test_a_foreign_exported_program_can_be_inspected_and_cut(tmp_path):
    model, example = demo.mlp()
    torch.export.save(torch.export.export(model, (example,)), tmp_path / "foreign.pt2")
    assert json.loads(run("inspect foreign.pt2 --json"))["kind"] == "program"
    assert json.loads(run("verify foreign.pt2 --plan balanced:stages=3 --json"))["ok"]


def with_numbers():
    """A model, and a call that passes a number, a nested tensor and a tensor by keyword."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x, times, pair, *, shift):
            for _ in range(times):
                x = torch.relu(self.a(x))[:, :6] + pair[0]
            return self.b(self.a(x).relu()) + shift

    return Net().eval(), (torch.randn(4, 6), 2, [torch.randn(6)]), {"shift": torch.randn(3)}


def test_a_foreign_program_is_called_as_the_model_was_numbers_and_names_included():
    model, args, more = with_numbers()
    torch.export.save(torch.export.export(model, args, more), "foreign.pt2")
    run("decouple foreign.pt2 -o cut.pt2")
    run("recouple cut.pt2 -o plain.pt2")
    run("decouple plain.pt2 -o again.pt2")
    for name in ("cut.pt2", "again.pt2"):
        cut = dni_fx.load(name).eval()
        x, times, pair = args
        assert torch.equal(cut(*args, **more), model(*args, **more))
        assert torch.equal(cut(x=x, times=times, pair=pair, **more), model(*args, **more))
        with pytest.raises(CaptureError, match="passes 3 for 2"):
            cut(x, 3, pair, **more)
        with pytest.raises(CaptureError, match="beside 2"):
            cut(x, times, [*pair, 1.0], **more)


def test_example_inputs_have_the_shapes_dtypes_and_bounds_asked_for():
    a, b, c, d = read_example("32x64,8x16:int64<100,5:bool,2:bfloat16")
    assert [tuple(each.shape) for each in (a, b, c, d)] == [(32, 64), (8, 16), (5,), (2,)]
    assert [each.dtype for each in (a, b, c, d)] == [torch.float32, torch.int64, torch.bool, torch.bfloat16]
    assert 2 < int(b.max()) < 100
    assert int(b.min()) >= 0
    assert int(read_example("1000:int32")[0].max()) == 1
    assert torch.equal(a, read_example("32x64")[0])


@pytest.mark.parametrize("runtime", ["backprop", "local"])
def test_a_run_that_is_stopped_goes_on_with_the_same_command(runtime, monkeypatch):
    command = (
        f"train {MLP} --data dni_fx.demo:clusters --batch-size 100 --epochs 2 --runtime {runtime} "
        "--accumulate 2 --clip 1 --seed 3 --json --checkpoint run.ckpt --resume --every 1"
    )
    whole = json.loads(run(f"{command} -o whole.pt2"))
    Path("run.ckpt").unlink()
    take, seen = Trainer.train_on, []

    def stopping(trainer, batch):
        seen.append(batch)
        if len(seen) == 8:
            raise MemoryError
        return take(trainer, batch)

    monkeypatch.setattr(Trainer, "train_on", stopping)
    with pytest.raises(MemoryError):
        run(command)
    report = json.loads(run(f"{command} -o part.pt2"))
    for ours, theirs in zip(report["epochs"], whole["epochs"], strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    ours, theirs = (dni_fx.load(f"{name}.pt2").state_dict() for name in ("part", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert "run.ckpt is there already" in refusal(command.replace("--resume", ""))
    alone = command.replace("--checkpoint run.ckpt", "")
    assert "often --checkpoint FILE is written: name the file" in refusal(alone, 2)
    assert "name it with --checkpoint" in refusal(alone.replace("--every 1", ""), 2)
    assert "both run.pt2: name two files" in refusal(f"{command.replace('run.ckpt', 'run.pt2')} -o run.pt2")
