"""One test for each bug that a name, an input or an output of an unusual kind has brought up."""

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.apart import apart
from dni_fx.errors import CaptureError, ExportError, reason_of
from tests.equality import assert_same, copied, objective
from tests.zoo import made
from tests.zoo.plain import Chain


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"in": nn.Linear(6, 6), "out": nn.Linear(6, 6)})
        self.register_parameter("lambda", nn.Parameter(torch.ones(6)))
        self.register_buffer("is", torch.ones(6))

    def forward(self, x):
        return self.layers["out"](self.layers["in"](x) * getattr(self, "lambda") + getattr(self, "is"))


def test_names_that_are_keywords_are_refused_by_name():
    """It was a SyntaxError of the code that torch.fx writes."""
    with pytest.raises(CaptureError) as caught:
        dni_fx.capture(Named(), (torch.randn(3, 6),))
    assert str(caught.value) == (
        "cannot capture Named: the code of a graph cannot speak of layers.in, lambda, is, since such a "
        "name is a keyword of Python. Rename it."
    )


def test_verify_finds_what_is_not_a_number_equal_to_itself_in_both_modes():
    """The graph for files failed the check, with a difference of 0, where an output was nan."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[2].bias[0] = torch.nan
        net[2].bias[1] = torch.inf
    cut = dni_fx.decouple(net, (torch.randn(4, 6),), plan="at:after=1")
    assert [check.ok for check in dni_fx.verify(cut).checks][:2] == [True, True]


class Complex(Chain):
    def forward(self, x):
        return torch.fft.fft(super().forward(x))


def test_verify_compares_complex_outputs():
    """Their sum is complex, and torch differentiates no such loss."""
    cut = dni_fx.decouple(Complex().double(), made("chain")[1], plan="balanced:stages=3")
    assert all(check.ok for check in dni_fx.verify(cut).checks)


def test_verify_sees_a_difference_in_the_imaginary_part_alone():
    """A complex tensor that becomes real loses it."""
    a, b = torch.tensor([1 + 1j]), torch.tensor([1 + 3j])
    assert apart(a, b) == 2


class Returns(Chain):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return {"value": self.value, "out": super().forward(x), "none": None}


@pytest.mark.parametrize("value", ["text", torch.float32, torch.device("cpu"), 3, 2.5, True, None])
def test_a_file_keeps_what_is_returned_beside_tensors(value, tmp_path):
    """A file with text in its outputs could be written and not be read."""
    (x,) = made("chain")[1]
    cut = dni_fx.decouple(Returns(value).double(), (x,), plan="balanced:stages=2")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    for training in (True, False):
        assert_same(again.train(training)(x), cut.train(training)(x))


@pytest.mark.parametrize(("value", "kind"), [(1j, "complex"), (b"bytes", "bytes"), (slice(2), "slice")])
def test_what_no_file_can_hold_is_refused_at_saving(value, kind, tmp_path):
    cut = dni_fx.decouple(Returns(value).double(), made("chain")[1], plan="balanced:stages=2")
    with pytest.raises(ExportError) as caught:
        dni_fx.save(cut, tmp_path / "cut.pt2")
    assert str(caught.value) == (
        f"cannot write the graph to a file: it returns a {kind} (output 0), which a file cannot hold. Return "
        "tensors, numbers, text, a dtype or a device."
    )
    assert not (tmp_path / "cut.pt2").exists()


class WritesToItsInput(Chain):
    def forward(self, x):
        x.mul_(0.5)
        return super().forward(x)


@pytest.mark.parametrize("frontend", ["auto", "symbolic", "export"])
@pytest.mark.parametrize("synthesizer", ["oracle", "zero"])
def test_an_input_that_was_computed_may_be_written_to(synthesizer, frontend):
    """Copies of it were leaves, to which autograd lets nobody write, at capture and at each step."""
    model, (start,) = WritesToItsInput().double(), made("chain")[1]
    cut = dni_fx.decouple(
        copied(model),
        (start.requires_grad_() * 2,),
        plan="balanced:stages=3",
        synthesizer=synthesizer,
        frontend=frontend,
    )
    found = []
    for each in (cut, model):
        x = start * 2
        out = each(x)
        (wanted,) = torch.autograd.grad(objective([out, x]), start)
        found.append((out, x, *([wanted] if synthesizer == "oracle" else [])))
    assert_same(*found, tolerance=1e-10)
    assert dni_fx.verify(cut).ok


def test_sizes_still_follow_the_batch_where_a_computed_input_is_written_to():
    example = (made("chain")[1][0].requires_grad_() * 2,)
    cut = dni_fx.decouple(WritesToItsInput().double(), example, plan="balanced:stages=3")
    assert [dni.spec.value.dims for dni in dni_fx.boundaries(cut).values()] == [("b", 6)] * 2


def test_a_refusal_of_our_own_shows_by_its_words_alone():
    """The name of our class was in front of it, as if it had been a failure of somebody's code."""
    assert reason_of(CaptureError("it cannot be\ndone")) == "it cannot be"
    assert reason_of(ValueError("no")) == "ValueError: no"


class Converts(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x).to(torch.float64))


@pytest.mark.parametrize("policy", ["at:after=to", "at:after=:to"])
def test_a_value_that_is_made_by_a_method_of_modules_too_can_be_cut_at(policy):
    """Its boundary was called `to`, and no submodule can be."""
    model, x = Converts().double(), torch.ones(3, 4, dtype=torch.float64)
    cut = dni_fx.decouple(model, (x,), plan=policy, synthesizer="oracle")
    assert torch.equal(cut(x), model(x))
    assert dni_fx.verify(cut).ok
