"""Copies, files and state dicts of a cut model, and the class that it keeps."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.cutting import Cutting
from tests.equality import assert_same, objective
from tests.everyday import (
    PLAN,
    assert_goes_on_alike,
    assert_trains_alike,
    in_step,
    learned,
    net,
    pair,
    refused,
    rows,
    works,
)

COPY = "`copy`, `deepcopy`, `pickle`, `torch.save` of it or of its state"
OTHER = "a state dict into the plain model or another plan"
ASSIGN = "`load_state_dict(assign=True)`, `strict=False`"
WALK = "an optimizer made before; `apply`, `named_modules`, `zero_grad`"
CLASS = "your class: `isinstance`, methods, `config`, `generate`, `save_pretrained`"


def through_a_file(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def from_its_state(cut):
    other = pair(synthesizer="linear")[1]
    other.load_state_dict(through_a_file(cut.state_dict()))
    return other


WAYS = [copy.deepcopy, lambda cut: pickle.loads(pickle.dumps(cut)), through_a_file, from_its_state]


@pytest.mark.parametrize("way", WAYS, ids=["deepcopy", "pickle", "torch.save", "state"])
@works(COPY)
def test_training_goes_on_from_a_copy_bit_for_bit(way):
    cut = learned()
    in_step(cut)
    twin = way(cut)
    assert_goes_on_alike(cut, twin)
    assert not {id(p) for p in cut.parameters()} & {id(p) for p in twin.parameters()}


@works(COPY)
def test_what_the_synthesizers_have_collected_is_copied():
    cut = learned()
    objective(cut(rows())).backward()
    assert_goes_on_alike(cut, copy.deepcopy(cut))


@works(COPY)
def test_a_shallow_copy_shares_everything():
    cut = learned()
    twin = copy.copy(cut)
    assert type(twin) is type(cut)
    assert_same(twin(rows()), cut(rows()))
    objective(twin(rows())).backward()
    assert cut[0].weight.grad is twin[0].weight.grad is not None


@pytest.mark.parametrize("into", ["model", "plan"])
@works(ASSIGN)
def test_weights_alone_go_into_another_model(into):
    cut = learned()
    in_step(cut)
    other = net() if into == "model" else pair(plan="at:after=3", synthesizer="linear")[1]
    found = other.load_state_dict(cut.state_dict(), strict=False)
    assert all(key.startswith("dni.") for key in (*found.missing_keys, *found.unexpected_keys))
    assert_same(other.eval()(rows()), cut.eval()(rows()))


@works(ASSIGN)
def test_assigned_state_is_still_shared_with_the_model():
    model = net()
    cut = dni_fx.decouple(model, (rows(),), plan=PLAN, synthesizer="oracle")
    state = {key: value * 2 for key, value in cut.state_dict().items()}
    cut.load_state_dict(state, assign=True)
    assert all(a is b for a, b in zip(model.parameters(), dni_fx.recouple(cut).parameters(), strict=True))
    assert model[0].weight is cut[0].weight
    assert_trains_alike(copy.deepcopy(model), cut)


@works(ASSIGN)
def test_assigned_state_of_synthesizers_is_learned_on():
    cut = learned()
    twin = copy.deepcopy(cut)
    twin.load_state_dict({key: value.clone() for key, value in cut.state_dict().items()}, assign=True)
    assert_goes_on_alike(cut, twin)


@refused(
    OTHER,
    RuntimeError,
    "Error(s) in loading state_dict for Sequential:\n"
    '\tUnexpected key(s) in state_dict: "dni.steps", "dni.2.scale.mean_square", "dni.2.scale.seen", '
    '"dni.2.guard.state", "dni.5.scale.mean_square", "dni.5.scale.seen", "dni.5.guard.state". ',
)
def test_the_state_of_synthesizers_does_not_fit_the_plain_model():
    state = learned(synthesizer="zero").state_dict()
    net().load_state_dict({key: value for key, value in state.items() if ".optimizer." not in key})


@refused(
    OTHER,
    RuntimeError,
    "Error(s) in loading state_dict for Sequential:\n"
    '\tMissing key(s) in state_dict: "dni.3.scale.mean_square", "dni.3.scale.seen", "dni.3.guard.state". \n'
    '\tUnexpected key(s) in state_dict: "dni.2.scale.mean_square", "dni.2.scale.seen", "dni.2.guard.state", '
    '"dni.5.scale.mean_square", "dni.5.scale.seen", "dni.5.guard.state". ',
)
def test_the_state_of_synthesizers_does_not_fit_another_plan():
    state = learned(synthesizer="zero", plan=PLAN).state_dict()
    other = pair(plan="at:after=3", synthesizer="zero")[1]
    other.load_state_dict(
        {k: v for k, v in state.items() if ".optimizer." not in k}
        | {k: v for k, v in other.state_dict().items() if ".optimizer." in k}
    )


@works(WALK)
def test_what_walks_over_a_cut_model_sees_the_model_and_its_synthesizers():
    cut = learned()
    own = [name for name, _ in cut.named_modules() if name.split(".")[0] != "dni"]
    assert own == [name for name, _ in net().named_modules()]
    seen = []
    cut.apply(lambda module: seen.append(module))
    assert len(seen) == len(list(cut.modules())) > len(own)
    objective(cut(rows())).backward()
    cut.zero_grad()
    assert all(p.grad is None for p in cut.parameters())
    assert not any(p.requires_grad for p in cut.requires_grad_(False).parameters())
    assert not cut(rows()).requires_grad


class Mine(nn.Module):
    kind = "mine"

    def __init__(self):
        super().__init__()
        self.net = net()
        self.count = 0

    @property
    def width(self):
        return self.net[0].out_features

    def embed(self, x):
        return self.net[2](self.net[0](x))

    def predict(self, x):
        return self(x).argmax(-1)

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("in_place", [False, True])
@works(CLASS)
def test_a_class_keeps_its_attributes_methods_and_properties(in_place):
    model = Mine()
    decouple = dni_fx.decouple_ if in_place else dni_fx.decouple
    cut = decouple(copy.deepcopy(model), (rows(),), plan="at:after=net.2+net.5", synthesizer="oracle")
    assert isinstance(cut, Mine)
    assert isinstance(cut, dni_fx.Decoupled)
    assert (cut.width, cut.kind, cut.count) == (8, "mine", 0)
    cut.count += 1
    assert cut.count == 1
    assert_same(cut.embed(rows()), model.embed(rows()))
    assert_same(cut.predict(rows()), model.predict(rows()))
    assert_trains_alike(model, cut)
    assert isinstance(vars(cut)["_dni"], Cutting)
