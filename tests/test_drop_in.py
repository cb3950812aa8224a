"""A cut model stands in for the model it was made from."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.errors import CaptureError, DniError, PlanError, SynthesizerError
from tests.equality import assert_same, gradients, seeded
from tests.stirred import stir, stirred_zoo
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
            "cannot decouple Chain: it has an attribute 'dni', where the synthesizers would live. Rename it, or "
            "decouple a module that holds the model."
        )
    assert type(model) is Chain


def test_a_model_is_not_decoupled_twice_in_place():
    cut = dni_fx.decouple(Chain())
    with pytest.raises(DniError) as caught:
        dni_fx.decouple_(cut)
    assert str(caught.value) == "this model is decoupled already; dni_fx.recouple(model) undoes that."


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


def test_synthesizers_are_chosen_by_pattern_and_the_first_that_matches_counts():
    model, (x,) = made("chain")
    choice = {"*_1": "linear", "layers_*": "mlp:hidden=5", "*": "zero"}
    cut = dni_fx.decouple(model, (x,), plan="at:after=layers.0+layers.1+layers.3", synthesizer=choice)
    kinds = {name: type(dni.learner).__name__ for name, dni in dni_fx.boundaries(cut).items()}
    assert kinds == {"layers_0": "_MLP", "layers_1": "_Linear", "layers_3": "_MLP"}


def test_a_boundary_that_no_pattern_matches_is_named():
    model, (x,) = made("chain")
    with pytest.raises(SynthesizerError) as caught:
        dni_fx.decouple(model, (x,), plan="at:after=layers.1", synthesizer={"a*": "linear", "b*": "zero"})
    assert str(caught.value) == (
        "no synthesizer was chosen for the boundary layers_1: it matches none of a*, b*. Add the pattern * for "
        "all the others."
    )


def test_a_call_of_another_form_is_captured_by_itself():
    model, (x,) = made("keyword-only")
    cut = dni_fx.decouple(copy.deepcopy(model), (x,), plan="at:after=layers.2", synthesizer="oracle")
    for kwargs in ({}, {"scale": 2.0}, {"late": x * 2}, {"scale": 3.0, "late": x}, {"scale": 2.0}):
        assert_same(seeded(cut, (x,), kwargs), seeded(model, (x,), kwargs))
        assert_same(seeded(cut, (), {"x": x, **kwargs}), seeded(model, (x,), kwargs))
    assert len(cutting_of(cut).graphs) == 4
    assert list(dni_fx.boundaries(cut)) == ["layers_2"]


def test_frozen_after_the_cut_layers_are_respected():
    cut, (x,) = stirred_zoo("chain", plan="balanced:stages=2")
    cut(x).sum().backward()
    cut.zero_grad()
    cut.layers[0].requires_grad_(False)
    cut(x).sum().backward()
    assert cut.layers[0].weight.grad is None
    assert cut.layers[1].weight.grad is not None


class Labelled(Chain):
    def forward(self, x, labels=None):
        x = super().forward(x)
        return x if labels is None else (F.cross_entropy(x, labels), x)


def test_context_is_an_argument_or_a_named_input():
    model, (x,) = Labelled().double(), made("chain")[1]
    labels = torch.tensor([0, 2, 5])
    examples = [((x,), ""), ((x, labels), "labels"), ((x,), "")]
    cuts = []
    for example, context in examples:
        torch.manual_seed(0)
        cuts.append(
            stir(dni_fx.decouple(copy.deepcopy(model), example, plan="at:after=layers.1", context=context))
        )
    by_argument, by_name, without = cuts
    F.cross_entropy(by_argument(x, dni_context=labels), labels).backward()
    by_name(x, labels=labels)[0].backward()
    F.cross_entropy(without(x), labels).backward()
    early = "layers.0.weight"
    assert_same(by_name.get_parameter(early).grad, by_argument.get_parameter(early).grad)
    assert not torch.equal(without.get_parameter(early).grad, by_argument.get_parameter(early).grad)
    assert [id(dni.now.context) for dni in dni_fx.boundaries(by_name).values()] == [id(labels)]


def test_a_context_that_the_call_does_not_have_is_named():
    model, (x,) = Labelled().double(), made("chain")[1]
    cut = dni_fx.decouple(model, (x,), context="labels")
    with pytest.raises(DniError) as caught:
        cut(x)
    assert str(caught.value) == "the context is to be the model's input 'labels', and this call has only x."


def test_values_that_cross_in_one_mode_only_are_refused():
    model, (x,) = made("modes-differ")
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=3")
    cut(x)
    assert_same(cut.eval()(x), model.eval()(x))
    cut.train()
    for layer in cut.layers:
        layer.eval()  # the whole still trains: the same values cross
    cut(x)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: dni_fx.decouple(3), CaptureError, "a model is a torch.nn.Module, and this is a int."),
        (
            lambda: dni_fx.decouple(Chain(), (torch.zeros(2, 6), 1)),
            CaptureError,
            "the example does not fit Chain.forward: too many positional arguments",
        ),
        (
            lambda: dni_fx.stages(dni_fx.decouple(Chain())),
            DniError,
            "this model is not cut yet: it waits for its first batch in train mode. Run one, or give decouple() "
            "an example of the model's inputs.",
        ),
        (
            lambda: dni_fx.verify(dni_fx.decouple(Chain())),
            DniError,
            "an example of the model's inputs is needed: it was decoupled without one.",
        ),
        (
            lambda: dni_fx.decouple(Chain(), torch.zeros(2, 6), plan="bottleneck:stages=99"),
            PlanError,
            "bottleneck:stages=99 asks for 99 stages, and this graph can be cut in 4 places one after another "
            "(:tanh, :tanh.1, :tanh.2, :tanh.3). Ask for at most 5, or use balanced, which cuts wider if it must.",
        ),
    ],
    ids=["no model", "no example of it", "not cut", "no example", "too many stages"],
)
def test_what_cannot_be_done_is_said(wrong, error, says):
    with pytest.raises(error) as caught:
        wrong()
    assert str(caught.value) == says
