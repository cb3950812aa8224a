"""A file is read to the device that is asked for, whatever it says of the one that it was written on."""

import json

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import FileError
from tests.archives import rewrite
from tests.equality import assert_same, gradients

ELSEWHERE = {"type": "cuda", "index": 0}


class Places(nn.Module):
    """Makes a tensor of its own, on the device of what comes in."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("scale", torch.ones(6))
        self.double()

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.last(x * self.scale + torch.arange(6, device=x.device))


def moved(read):
    """The JSON with every device that it names another one, that of values and of operations alike."""
    if isinstance(read, dict):
        return {
            key: ELSEWHERE if key in ("device", "as_device") and value else moved(value)
            for key, value in read.items()
        }
    return [moved(each) for each in read] if isinstance(read, list) else read


@pytest.fixture
def written(tmp_path):
    """A cut model, and a file of it that says it was written on a GPU."""
    cut = dni_fx.decouple(
        Places(), (torch.randn(3, 6).double(),), plan="at:after=first", synthesizer="linear"
    )
    dni_fx.save(cut, tmp_path / "cut.pt2")
    tables = [f"data/{kind}_config.json" for kind in ("weights/model_weights", "weights/train_weights")]
    tables += [f"data/constants/{kind}_constants_config.json" for kind in ("model", "train")]
    names = ["models/model.json", "models/train.json", "data/dni_fx/state_config.json", *tables]
    change = dict.fromkeys(names, lambda text: json.dumps(moved(json.loads(text))).encode())
    return cut, rewrite(tmp_path / "cut.pt2", change)


def test_a_file_from_a_gpu_is_read_to_the_cpu(written):
    cut, path = written
    again = dni_fx.load(path, map_location="cpu")
    x = torch.randn(5, 6).double()
    assert torch.equal(again(x), cut(x))
    ours, theirs = gradients(again, (x,)), gradients(cut, (x,))
    assert_same({name: ours[name] for name in theirs}, theirs)
    assert dni_fx.verify(again)
    assert {each.device.type for each in again.state_dict().values()} == {"cpu"}


def test_a_plain_program_of_the_file_too(written):
    cut, path = written
    program = dni_fx.load_program(path, map_location=torch.device("cpu"))
    x = torch.randn(5, 6).double()
    assert torch.equal(dni_fx.decouple(program, plan="at:after=first")(x), cut(x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is the device that should be missing")
def test_a_device_that_is_not_there_is_told_with_what_helps(written):
    _, path = written
    with pytest.raises(FileError, match=r"was on cuda:0, and here .*map_location='cpu'"):
        dni_fx.load(path)
    with pytest.raises(FileError, match=r"it was asked for on cuda:1, and here"):
        dni_fx.load(path, map_location="cuda:1")


def test_the_meta_device_is_refused_as_a_place_and_not_as_damage(written):
    _, path = written
    with pytest.raises(FileError, match=r"to the meta device, where there are no numbers: name another one"):
        dni_fx.load(path, map_location="meta")


@pytest.mark.parametrize("read", [dni_fx.load, dni_fx.load_program])
def test_what_is_no_device_is_told(written, read):
    _, path = written
    with pytest.raises(FileError, match=r"map_location='the fast one' is no device"):
        read(path, map_location="the fast one")
