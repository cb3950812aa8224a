"""How a cut model is called, what its boundaries are filled with, and what is said when that cannot be."""

import copy

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from dni_fx.decoupled import cutting_of
from dni_fx.errors import CaptureError, DniError, PlanError, SynthesizerError
from tests.equality import assert_same, seeded
from tests.stirred import stir, stirred_zoo
from tests.zoo import made
from tests.zoo.plain import Chain


def test_synthesizers_are_chosen_by_pattern_and_the_first_that_matches_counts():
    model, (x,) = made("chain")
    choice = {"*_1": "linear", "layers_*": "mlp:hidden=5", "*": "zero"}
    cut = dni_fx.decouple(model, (x,), plan="at:after=layers.0+layers.1+layers.3", synthesizer=choice)
    kinds = {name: type(dni.learner).__name__ for name, dni in dni_fx.boundaries(cut).items()}
    assert kinds == {"layers_0": "_MLP", "layers_1": "_Linear", "layers_3": "_MLP"}


def test_a_boundary_that_no_pattern_matches_is_named():
    model, (x,) = made("chain")
    with pytest.raises(SynthesizerError) as caught:
        dni_fx.decouple(model, (x,), plan="at:after=layers.1+layers.3", synthesizer={"*_3": "linear"})
    assert str(caught.value) == (
        "no synthesizer was chosen for the boundary layers_1: it matches none of *_3. Add the pattern * "
        "for all the others."
    )


def test_a_pattern_that_no_boundary_matches_is_named():
    model, (x,) = made("chain")
    with pytest.raises(SynthesizerError) as caught:
        dni_fx.decouple(model, (x,), plan="at:after=layers.1", synthesizer={"a*": "linear", "*": "zero"})
    assert str(caught.value) == "no boundary matches a*. There are: layers_1 (after layers.1)."


def test_a_pattern_may_be_of_anchors():
    model, (x,) = made("chain")
    cut = dni_fx.decouple(model, (x,), plan="at:after=layers.1", synthesizer={"layers.*": "linear"})
    assert [str(dni.synthesizer) for dni in dni_fx.boundaries(cut).values()] == ["linear"]


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
            (
                "this model is not cut yet: it waits for its first batch in train mode. Run one, or give "
                "decouple() an example of the model's inputs."
            ),
        ),
        (
            lambda: dni_fx.verify(dni_fx.decouple(Chain())),
            DniError,
            "an example of the model's inputs is needed: it was decoupled without one.",
        ),
        (
            lambda: dni_fx.decouple(Chain(), torch.zeros(2, 6), plan="bottleneck:stages=99"),
            PlanError,
            (
                "bottleneck:stages=99 asks for 99 stages, and this graph can be cut in 4 places one after "
                "another (:tanh, :tanh.1, :tanh.2, :tanh.3). Ask for at most 5, or use balanced, which cuts "
                "wider if it must."
            ),
        ),
    ],
    ids=["no model", "no example of it", "not cut", "no example", "too many stages"],
)
def test_what_cannot_be_done_is_said(wrong, error, says):
    with pytest.raises(error) as caught:
        wrong()
    assert str(caught.value) == says
