"""Parts of a cut model in eval mode, frozen, replaced or of another type."""

import copy

import torch
from torch import nn

import dni_fx
from dni_fx.errors import PlanError, SynthesizerError
from tests.equality import assert_same
from tests.everyday import (
    PLAN,
    assert_trains_alike,
    captures,
    captures_again,
    in_step,
    learned,
    net,
    pair,
    refused,
    rows,
    works,
)

FREEZE = "`eval()` of parts (frozen batch norm), freezing, unfreezing"
REPLACE = "replacing a layer or a parameter"
WIDTH = "replacing a layer by one of another width, at a cut"
LORA = "LoRA adapters before decoupling"
LORA_LATE = "LoRA adapters after decoupling"


@captures_again(FREEZE)
def test_batch_norm_in_eval_mode_keeps_its_statistics():
    model, cut = pair()
    for each in (model, cut):
        each[1].eval()
    before = cut[1].running_mean.clone()
    assert_trains_alike(model, cut)
    assert_same(cut[1].running_mean, before)
    assert captures(cut) == 2


@captures_again(FREEZE)
def test_layers_may_be_frozen_and_unfrozen_between_steps():
    model, cut = pair()
    for frozen in ([0], [0, 1], [0, 1, 3], [3, 4, 6], []):
        for each in (model, cut):
            each.requires_grad_(True)
            for at in frozen:
                each[at].requires_grad_(False)
        assert_trains_alike(model, cut)
    assert captures(cut) == 5


@captures_again(FREEZE)
def test_a_frozen_model_gives_no_gradient_and_thaws():
    model, cut = pair()
    for each in (model, cut):
        each.requires_grad_(False)
        assert not each(rows()).requires_grad
        each.requires_grad_(True)
    assert_trains_alike(model, cut)


@captures_again(FREEZE)
def test_synthesizers_learn_on_when_all_was_frozen_but_some():
    """`requires_grad_(False)` froze them with the model, and the first stage got zeros for ever."""
    cut = pair(synthesizer="linear")[1]
    cut.requires_grad_(False)
    for at in (0, 6):
        cut[at].requires_grad_(True)
    in_step(cut, steps=4)
    assert cut[0].weight.grad.any()
    assert cut[3].weight.grad is None


@captures_again(REPLACE)
def test_a_layer_or_a_parameter_may_be_replaced():
    model, cut = pair()
    for each in (model, cut):
        torch.manual_seed(1)
        each[3] = nn.Linear(8, 8).double()
    assert_trains_alike(model, cut)
    for each in (model, cut):
        each[6].weight = nn.Parameter(torch.randn(4, 8, dtype=torch.float64).fill_(0.2))
    assert_trains_alike(model, cut)
    for each in (model, cut):
        each[2] = nn.ReLU()
    assert_trains_alike(model, cut)


@refused(
    WIDTH,
    SynthesizerError,
    "linear at 2 (after 2) was built for 8 features and is given 10. Decouple the model anew with an example "
    "of this size.",
)
def test_a_layer_of_another_width_at_a_cut_is_refused():
    cut = learned()
    cut[0], cut[1], cut[3] = (
        each.double() for each in (nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Linear(10, 8))
    )
    cut(rows())


class LoRA(nn.Module):
    """A frozen layer and a low-rank update beside it."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.linspace(-1, 1, base.in_features, dtype=torch.float64).view(1, -1))
        self.up = nn.Parameter(torch.linspace(1, 2, base.out_features, dtype=torch.float64).view(-1, 1))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


def adapt(model):
    for at in (0, 3, 6):
        model[at] = LoRA(model[at])
    return model


@works(LORA)
def test_adapters_that_were_there_before_are_trained_and_what_is_frozen_is_not():
    model, cut = pair(adapt(net()))
    assert_trains_alike(model, cut)
    cut = pair(adapt(net()), synthesizer="linear")[1]
    before = copy.deepcopy(cut)
    in_step(cut)
    assert_same(cut[0].base.weight, before[0].base.weight)
    assert not torch.equal(cut[0].up, before[0].up)


@works(LORA)
def test_adapters_may_come_before_the_first_batch():
    model = adapt(net())
    cut = adapt(dni_fx.decouple(net(), plan=PLAN, synthesizer="oracle"))
    assert_trains_alike(model, cut)


@refused(
    LORA_LATE,
    PlanError,
    "cannot cut this graph by the plan, older than its layers; decouple dni_fx.recouple(model) anew:\n"
    "  * the plan belongs to another graph: 3 of its 7 values are not in this one (-), and 18 of the 22 in "
    "this one are not in the plan (+)\n"
    "      in the model itself:\n        - 0 (stage 0)\n        - 3 (stage 1)\n        - 6 (stage 2)\n"
    + "\n".join(
        f"      in {at}:\n        + {at}.base\n        + {at}:getattr\n        + {at}:matmul\n"
        f"        + {at}:getattr.1\n          and 2 more"
        for at in (0, 3, 6)
    ),
)
def test_adapters_after_the_cut_are_refused():
    adapt(pair()[1])(rows())


@works(LORA)
def test_a_model_that_is_adapted_after_the_cut_is_cut_anew():
    model = adapt(net())
    again = dni_fx.decouple(adapt(dni_fx.recouple(pair()[1])), (rows(),), plan=PLAN, synthesizer="oracle")
    assert_trains_alike(model, again)
