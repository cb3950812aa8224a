"""A cut model stands in for the model it was made from."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import DniError
from tests.equality import assert_same, gradients, seeded
from tests.stirred import stirred_zoo
from tests.zoo import ZOO, made
from tests.zoo.plain import Chain
from tests.zoo.structure import KeywordOnly


def own_state(cut):
    return {key: value for key, value in cut.state_dict().items() if not key.startswith("dni.")}


def everything(model):
    """What a user could see of a model: attributes by identity, flags, hooks, gradients, random state."""
    seen = [(name, dict(vars(module)), module.training) for name, module in model.named_modules()]
    tensors = [*model.parameters(), *model.buffers()]
    values = [(tensor.clone(), tensor.grad, tensor._version) for tensor in tensors]
    return [
        [
            (n, {k: (id(v), dict(v) if isinstance(v, dict) else None) for k, v in d.items()}, t)
            for n, d, t in seen
        ]
    ], values


@pytest.mark.parametrize("name", ZOO)
def test_capture_and_decouple_alter_nothing_of_the_model(name):
    model, inputs = made(name)
    model.eval()
    next(model.children()).train()
    inputs = tuple(value.clone() for value in inputs)
    kept = [value.clone() for value in inputs]
    before, forward, state = everything(model), model.forward, torch.get_rng_state()
    dni_fx.capture(model, inputs)
    dni_fx.decouple(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    after = everything(model)
    assert after[0] == before[0]
    for (value, grad, version), (old, was, then) in zip(after[1], before[1], strict=True):
        assert torch.equal(value, old)
        assert (grad, version) == (was, then)
    assert model.forward == forward
    assert type(model) is not dni_fx.Decoupled
    assert_same(list(inputs), kept)


def test_training_the_cut_model_trains_the_model():
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=3")
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(cut(x), x).backward()
        optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert_same(cut.eval()(x), model.eval()(x))


def test_an_optimizer_made_before_the_first_batch_trains_every_parameter():
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, plan="balanced:stages=3")
    optimizer = torch.optim.SGD(cut.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(cut(x), x).backward()
        optimizer.step()
    assert len(dni_fx.boundaries(cut)) == 2
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    "name", ["batch-norm", "dropout", "functional-dropout", "convolutions", "modes-differ"]
)
def test_any_flips_of_modes_keep_the_numbers(name):
    model, inputs = made(name)
    cut = dni_fx.decouple(copy.deepcopy(model), inputs, plan="at:after=" + _first_module(model))
    parts = [path for path, _ in model.named_modules() if path][:4]
    flips = [("", True), (parts[1], False), ("", False), (parts[2], True), ("", True), (parts[-1], False)]
    for path, training in flips:
        for each in (model, cut):
            each.get_submodule(path).train(training)
        assert_same(seeded(cut, inputs), seeded(model, inputs))
        assert_same(own_state(cut), dict(model.state_dict()))


def _first_module(model):
    return next(name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))


@pytest.mark.parametrize("side", ["cut", "model"])
def test_a_change_of_dtype_on_one_side_is_seen_on_the_other(side):
    model, (x,) = made("batch-norm")
    model.float()
    cut = dni_fx.decouple(model, (x.float(),), plan="balanced:stages=2")
    cut(x.float()).sum().backward()
    cut.zero_grad()
    (cut if side == "cut" else model).to(torch.float64)
    assert (
        {p.dtype for p in model.parameters()}
        == {p.dtype for p in model.buffers() if p.dim()}
        == {torch.float64}
    )
    assert all(a is b for a, b in zip(model.parameters(), dni_fx.recouple(cut).parameters(), strict=True))
    model.eval(), cut.eval()
    assert_same(cut(x), model(x))
    cut.train()
    cut(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["chain", "batch-norm", "tied-layer", "two-names", "convolutions", "lstm"])
def test_a_deep_copy_is_equal_and_independent(name):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=2")
    twin = copy.deepcopy(cut)
    assert type(twin) is type(cut)
    assert_same(dict(twin.state_dict()), dict(cut.state_dict()))
    assert {id(t) for t in twin.state_dict(keep_vars=True).values()}.isdisjoint(
        {id(t) for t in cut.state_dict(keep_vars=True).values()}
    )
    wanted = gradients(cut, inputs)
    assert all(p.grad is None for p in twin.parameters())
    assert_same(gradients(twin, inputs), wanted)
    before = {key: value.clone() for key, value in cut.state_dict().items()}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.gradient_scale = 8
    seeded(twin, inputs)
    assert_same(dict(cut.state_dict()), before)
    assert cut.gradient_scale == 1


def test_a_pickled_cut_of_a_class_with_a_name_comes_back_equal():
    cut, inputs = stirred_zoo("chain", plan="bottleneck")
    state = pickle.loads(pickle.dumps(dict(cut.state_dict())))
    other, _ = stirred_zoo("chain", plan="bottleneck")
    other.load_state_dict(state)
    assert_same(gradients(other, inputs), gradients(cut, inputs))


def test_the_class_the_signature_and_the_methods_stay():
    model = KeywordOnly().double()
    cut = dni_fx.decouple(model)
    assert isinstance(cut, KeywordOnly)
    assert isinstance(cut, dni_fx.Decoupled)
    assert type(cut).__name__ == "KeywordOnly"
    assert type(cut) is type(dni_fx.decouple(KeywordOnly()))
    assert inspect.signature(cut.forward) == inspect.signature(model.forward)
    assert repr(cut).startswith("KeywordOnly(")
    assert type(dni_fx.recouple(cut)) is KeywordOnly


@pytest.mark.parametrize("name", ZOO)
def test_state_dict_keys_and_parameter_names_are_kept(name):
    model, inputs = made(name)
    cut = dni_fx.decouple(model, inputs)
    names = [key for key in cut.state_dict() if not key.startswith("dni.")]
    assert names == list(model.state_dict())
    assert [n for n, _ in cut.named_parameters() if not n.startswith("dni.")] == [
        n for n, _ in model.named_parameters()
    ]
    assert list(dni_fx.recouple(cut).state_dict()) == names
    assert any(key.startswith("dni.") for key in cut.state_dict())


def test_state_loaded_before_the_first_batch_waits_for_its_boundaries():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=3")
    lazy = dni_fx.decouple(Chain().double(), plan="balanced:stages=3")
    lazy.load_state_dict(cut.state_dict())
    assert_same(gradients(lazy, inputs), gradients(cut, inputs))


class Awkward(nn.Module):
    """Children with the names of our own words."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Linear(6, 6)
        self.plan = nn.Linear(6, 6)
        self.boundaries = nn.Linear(6, 6)
        self.step = nn.Linear(6, 6)
        self.interfaces = nn.Linear(6, 6)
        self.value = nn.Linear(6, 6)

    def forward(self, x):
        for name in ("stages", "plan", "boundaries", "step", "interfaces", "value"):
            x = torch.tanh(getattr(self, name)(x))
        return x


def test_children_may_be_called_what_they_like():
    model, (x,) = Awkward().double(), made("chain")[1]
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=4", synthesizer="oracle")
    assert len(dni_fx.stages(cut)) == 4
    assert cut.stages is not model.stages
    ours = {key: value for key, value in gradients(cut, (x,)).items() if not key.startswith("dni.")}
    assert_same(ours, gradients(copy.deepcopy(model), (x,)))


def test_a_child_called_dni_is_refused():
    model = Chain()
    model.dni = nn.Linear(2, 2)
    for decouple in (dni_fx.decouple, dni_fx.decouple_):
        with pytest.raises(DniError) as caught:
            decouple(model)
        assert str(caught.value) == (
            "cannot decouple Chain: it has an attribute 'dni', where the synthesizers would live. Rename it, "
            "or decouple a module that holds the model."
        )
    assert type(model) is Chain


def test_a_model_is_not_decoupled_twice_in_place():
    cut = dni_fx.decouple(Chain())
    with pytest.raises(DniError) as caught:
        dni_fx.decouple_(cut)
    assert str(caught.value) == (
        "this model is decoupled already, and its synthesizers would be lost. To cut it another way, pass "
        "dni_fx.recouple(model)."
    )


def test_in_place_the_model_itself_becomes_the_drop_in():
    model, (x,) = made("sequential")
    wanted = model(x)
    same = dni_fx.decouple_(model, (x,), plan="balanced:stages=2", synthesizer="oracle")
    assert same is model
    assert isinstance(model, nn.Sequential)
    assert_same(model(x), wanted)
    assert_same(model.eval()(x), wanted)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in dni_fx.recouple(model).parameters())


def test_recoupling_gives_the_model_with_its_trained_weights_shared():
    cut, (x,) = stirred_zoo("sequential", plan="balanced:stages=2")
    model = dni_fx.recouple(cut)
    assert type(model) is nn.Sequential
    assert not hasattr(model, "dni")
    with torch.no_grad():
        cut[0].weight.mul_(2)
    assert_same(model(x), cut(x))
    assert dni_fx.boundaries(dni_fx.decouple(model, (x,)))


class OwnForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.forward = self.other

    def other(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x)) * 2
        return x


def test_a_forward_set_on_the_instance_is_the_one_that_is_cut():
    model, (x,) = OwnForward().double(), made("chain")[1]
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2")
    assert_same(cut(x), model(x))
    assert_same(cut.eval()(x), model(x))
    assert "forward" in vars(dni_fx.recouple(cut))
    with torch.no_grad():
        cut.layers[0].weight.mul_(3)
    assert_same(cut.train()(x), model(x))


def test_a_graph_module_can_be_cut_copied_and_verified():
    model, (x,) = made("chain")
    traced = torch.fx.symbolic_trace(model)
    cut = copy.deepcopy(dni_fx.decouple(traced, (x,), plan="balanced:stages=3"))
    assert_same(cut(x), model(x))
    assert dni_fx.verify(cut)
