"""Data classes and named tuples go in and come out as the user's own, and torch is told nothing of them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import dni_fx
from dni_fx.errors import CaptureError
from dni_fx.fields import with_fields
from tests.equality import assert_same
from tests.zoo import made


@dataclass
class Plain:
    value: Any
    note: object = None


@dataclass(frozen=True, slots=True)
class Frozen:
    value: Any
    note: object = None


@dataclass
class Counts:
    """What is made after the fields is kept, and not made again."""

    value: Any
    note: object = None
    made: int = field(default=0, init=False)

    def __post_init__(self):
        self.made += 1
        self.extra = 5


class Pair(NamedTuple):
    value: Any
    note: object = None


KINDS = [Plain, Frozen, Counts, Pair]


class Gives(nn.Module):
    """Takes and returns a value inside of something."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.layers = kind, nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.double()

    def forward(self, batch):
        x = batch.value
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return {"all": self.kind(x, [self.kind(x * 2), batch.note, 7])}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_may_take_and_return_it(kind, tmp_path):
    (x,) = made("chain")[1]
    model, batch = Gives(kind), kind(x, 3)
    cut = dni_fx.decouple(model, (batch,), plan="balanced:stages=2", synthesizer="linear")
    found, wanted = cut(batch), model(batch)
    assert type(found["all"]) is type(found["all"].note[0]) is kind
    assert_same(with_fields(found), with_fields(wanted))
    found["all"].value.sum().backward()
    assert dni_fx.verify(cut).ok
    assert kind not in pytree.SUPPORTED_NODES

    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")(batch)
    assert_same(with_fields(again), with_fields(wanted))
    assert type(again["all"]).__name__ == kind.__name__


@pytest.mark.parametrize("frontend", ["symbolic", "export"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_capturing_a_model_returns_it(kind, frontend):
    class Returns(Gives):
        def forward(self, x):
            return super().forward(Plain(x))

    (x,) = made("chain")[1]
    model = Returns(kind)
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2", frontend=frontend)
    assert_same(with_fields(cut(x)), with_fields(model(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_put_together_without_running_its_code_again(kind):
    before = kind(torch.ones(2), [kind(1)])
    leaves, spec = pytree.tree_flatten(with_fields(before))
    after = pytree.tree_unflatten(leaves, spec)
    assert type(after) is type(after.note[0]) is kind
    assert after.value is before.value
    assert getattr(after, "made", None) == getattr(before, "made", None)
    assert getattr(after, "extra", None) == getattr(before, "extra", None)


def test_a_class_that_torch_knows_is_left_to_torch():
    @dataclass
    class Known:
        value: Tensor

    pytree.register_dataclass(Known)
    value = Known(torch.ones(2))
    assert type(with_fields([value])[0]) is Known


def test_names_in_a_file_are_no_code():
    spec = pytree.tree_flatten(with_fields(Plain(1)))[1]
    text = pytree.treespec_dumps(spec)
    assert type(pytree.tree_unflatten([1, 2], pytree.treespec_loads(text))).__name__ == "Plain"
    with pytest.raises(TypeError, match="Field names must be valid identifiers"):
        pytree.treespec_loads(text.replace('"note"', '"note=print(1)"'))


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, batch):
        return self.layer(batch.data)


def test_a_packed_sequence_is_refused_with_what_to_pass_instead():
    with pytest.raises(CaptureError) as caught:
        dni_fx.decouple(Sums(), (pack_sequence([torch.ones(3, 6), torch.ones(2, 6)]),))
    assert str(caught.value) == (
        "cannot capture a call that passes a PackedSequence (batch): its first dimension is not the batch. "
        "Pass the padded tensor and the lengths, and pack them inside of the layer that needs it."
    )
