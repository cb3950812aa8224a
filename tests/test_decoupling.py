"""At mix 0 no true gradient crosses a boundary upward; above it does."""

import copy

import pytest
import torch

import dni_fx
from tests.equality import assert_same, copied, gradients, objective, seeded
from tests.stirred import early_parameters, stirred_zoo
from tests.zoo import ZOO

TIED = {
    "tied-layer",
    "tied-weight",
    "one-norm-for-all",
    "unrolled-cell",
    "two-cells",
    "own-parameters",
    "two-names",
}
OUTPUTS_EARLY = {
    "early-output",
    "returns-what-crosses",
    "dict-of-outputs",
    "named-outputs",
    "dataclass-output",
    "deep-supervision",
    "stacked-recurrence",
}


@pytest.mark.parametrize("factor", [0.0, -3e5])
@pytest.mark.parametrize("name", ZOO)
def test_scaling_the_loss_changes_no_earlier_gradient(name, factor):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=3")
    early = early_parameters(cut)
    assert early or name in TIED | OUTPUTS_EARLY
    # Synthesizers take their update when the next forward starts, so each factor gets its own copy.
    ours, scaled = gradients(copied(cut), inputs), gradients(copied(cut), inputs, factor)
    assert_same({at: ours[at] for at in early}, {at: scaled[at] for at in early})
    learning = [at for at in early if cut.get_parameter(at).requires_grad]
    assert not learning or any(ours[at] is not None and ours[at].any() for at in learning)


@pytest.mark.parametrize("mix", [0.1, 1.0])
@pytest.mark.parametrize(
    "name", ["chain", "residual", "skips-two-stages", "batch-norm", "convolutions", "lstm"]
)
def test_scaling_the_loss_changes_earlier_gradients_where_the_truth_is_mixed_in(name, mix):
    cut, inputs = stirred_zoo(name, plan="balanced:stages=3", interface=f"dni:mix={mix}")
    ours, scaled = gradients(copy.deepcopy(cut), inputs), gradients(copy.deepcopy(cut), inputs, 3.0)
    for at in early_parameters(cut):
        assert not torch.equal(ours[at], scaled[at])


def test_with_zero_the_early_stages_learn_nothing():
    cut, inputs = stirred_zoo("chain", plan="balanced:stages=3", synthesizer="zero")
    found = gradients(cut, inputs)
    assert all(not found[at].any() for at in early_parameters(cut))
    assert found["layers.4.weight"].any()


def test_a_loss_on_an_early_output_gives_its_exact_gradient():
    cut, inputs = stirred_zoo("early-output", plan="at:after=layers.2")
    model = dni_fx.recouple(copy.deepcopy(cut))
    seeded(cut, inputs)[0].sum().backward()
    seeded(model, inputs)[0].sum().backward()
    assert_same(cut.layers[1].weight.grad, model.layers[1].weight.grad)


def test_the_part_of_a_tied_parameter_that_the_last_stage_reads_is_exact():
    cut, inputs = stirred_zoo("tied-layer", plan="balanced:stages=3", synthesizer="zero")
    model = dni_fx.recouple(copy.deepcopy(cut))
    x = inputs[0]
    for layer in list(model.layers)[:4]:
        x = torch.tanh(layer(x)).detach()
    objective(torch.tanh(model.layers[4](x))).backward()
    objective(cut(*inputs)).backward()
    assert_same(cut.layers[0].weight.grad, model.layers[0].weight.grad)
