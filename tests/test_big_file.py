"""The benchmark of memory on a small file; and that looking at a file copies none of its weights."""

import json

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx import checks
from tests.benchmarks import big_file
from tests.benchmarks.big_file import Peak


def test_each_command_is_measured_beside_the_weights(tmp_path, capsys):
    big_file.main(
        ["--bytes", "16MiB", "--commands", "inspect", "decouple", "--json", str(tmp_path / "found.json")]
    )
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert [each["command"] for each in found] == ["inspect", "decouple"]
    assert len(capsys.readouterr().out.splitlines()) == 3
    for each in found:
        assert each["weights"] == pytest.approx(16 * 2**20, rel=0.01)
        assert each["peak"] > each["weights"]


def test_times_are_what_comes_on_top_of_a_small_file():
    assert Peak("inspect", peak=500, small=300, weights=100).times == 2.0


def test_a_command_that_fails_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="inspect nothing exited 1"):
        big_file.peak_of("inspect nothing", tmp_path)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def loaded(tmp_path, model):
    cut = dni_fx.decouple(model, torch.randn(3, 4), plan="at:after=one", synthesizer="linear")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    return dni_fx.load(tmp_path / "cut.pt2")


def test_checks_of_a_file_are_on_its_own_weights_and_change_nothing(tmp_path):
    cut = loaded(tmp_path, Plain())
    before = {name: each.clone() for name, each in cut.state_dict().items()}
    twin = checks._copied(cut)
    shared = [
        name
        for name, each in twin.named_parameters()
        if each.data_ptr() == cut.get_parameter(name).data_ptr()
    ]
    assert shared == [name for name, _ in dni_fx.recouple(cut).named_parameters()]
    assert dni_fx.verify(cut)
    assert all(torch.equal(each, before[name]) for name, each in cut.state_dict().items())
    assert all(parameter.grad is None for parameter in cut.parameters())


def test_a_model_of_code_is_checked_on_copies():
    cut = dni_fx.decouple(Plain(), torch.randn(3, 4), plan="at:after=one", synthesizer="linear")
    twin = checks._copied(cut)
    assert all(
        each.data_ptr() != cut.get_parameter(name).data_ptr() for name, each in twin.named_parameters()
    )
