"""Training loops around a cut model: scaled losses, several passes, other precisions."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import dni_fx
from dni_fx.errors import StageError
from tests.equality import assert_same, objective
from tests.everyday import (
    PLAN,
    assert_trains_alike,
    captures,
    captures_again,
    grads_of,
    in_step,
    learned,
    net,
    pair,
    refused,
    rows,
    works,
)
from tests.stirred import stir

SCALER = "`torch.amp.GradScaler`"
PARTS = "gradient accumulation, clipping, anomaly detection, several forward passes"
TYPES = "`autocast` on and off, `.to(dtype)`"
BEFORE = "an optimizer made before; `apply`, `named_modules`, `zero_grad`"
AVERAGE = "averages: `AveragedModel`, `update_bn`"
DEVICE = "`channels_last`, CUDA"


def scaled_steps(model, enabled, spoiled=-1):
    """Six steps with clipping; the scale doubles every second one, and one may be infinite."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2, enabled=enabled)
    for i in range(6):
        optimizer.zero_grad()
        model.gradient_scale = scaler.get_scale()
        loss = F.mse_loss(model(rows()), rows()[:, :4]) * (math.inf if i == spoiled else 1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
    return model


@works(SCALER)
def test_with_a_scaler_all_updates_are_those_without_bit_for_bit():
    cut = learned(synthesizer="mlp")
    ours, theirs = scaled_steps(copy.deepcopy(cut), True), scaled_steps(copy.deepcopy(cut), False)
    assert_same(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert not torch.equal(ours[0].weight, cut[0].weight)


@works(SCALER)
def test_a_step_that_is_infinite_is_skipped_and_the_synthesizers_stay_finite():
    cut = scaled_steps(learned(), True, spoiled=3)
    assert all(value.isfinite().all() for value in cut.state_dict().values())
    optimizer = torch.optim.SGD(cut.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    before = copy.deepcopy(cut[6].weight)
    scaler.scale(cut(rows()).sum() * math.inf).backward()
    scaler.step(optimizer)
    assert_same(cut[6].weight, before)


@works(PARTS)
def test_gradients_of_parts_add_up_and_are_clipped_alike():
    model, cut = pair()
    for each in (model, cut):
        for part in rows(6).split(3):
            (objective(each(part)) / 2).backward()
        nn.utils.clip_grad_norm_(each.parameters(), 0.1)
    assert_same(grads_of(cut), grads_of(model), tolerance=1e-10)


@works(PARTS)
def test_clipping_does_not_see_the_synthesizers():
    cut = learned()
    objective(cut(rows())).backward()
    norm = nn.utils.clip_grad_norm_(cut.parameters(), 1e9)
    assert_same(norm, nn.utils.clip_grad_norm_(dni_fx.recouple(cut).parameters(), 1e9))


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("synthesizer", ["oracle", "linear"])
@works(PARTS)
def test_anomaly_detection_changes_nothing(synthesizer):
    cut = stir(pair(synthesizer=synthesizer)[1])
    twin = copy.deepcopy(cut)
    with torch.autograd.set_detect_anomaly(True):
        in_step(cut)
    in_step(twin)
    assert_same(dict(cut.state_dict()), dict(twin.state_dict()))


@works(PARTS)
def test_two_forward_passes_may_share_a_backward_pass_or_have_one_each():
    model, cut = pair()
    one, two = rows(seed=2), rows(seed=3)
    for each in (model, cut):
        (each(one) * each(two)).sum().backward()
        first, second = each(one), each(two)
        objective(first).backward()
        objective(second.square()).backward()
    assert_same(grads_of(cut), grads_of(model), tolerance=1e-10)


@works(PARTS)
def test_synthesizers_learn_from_every_forward_pass_of_a_step():
    cut = learned()
    together, apart = copy.deepcopy(cut), copy.deepcopy(cut)
    one, two = together(rows(seed=2)), together(rows(seed=3))
    (objective(one) + objective(two)).backward()
    one, two = apart(rows(seed=2)), apart(rows(seed=3))
    objective(one).backward(), objective(two).backward()
    for each in (together, apart):
        assert all(dni.scale.seen == 12 for dni in dni_fx.boundaries(each).values())  # 10 before
    assert_same(grads_of(together), grads_of(apart), tolerance=1e-10)


@refused(
    "a second `backward(retain_graph=True)`",
    StageError,
    "a second backward pass reached 5. Its synthetic gradient was used up by the first one: run the forward "
    "pass again, or add the losses and call backward once.",
)
def test_a_second_backward_through_one_forward_is_refused():
    loss = learned()(rows()).sum()
    loss.backward(retain_graph=True)
    loss.backward()


@captures_again(TYPES)
def test_autocast_may_be_on_in_one_step_and_off_in_the_next():
    model, cut = pair()
    for on in (True, False, True, False):
        outputs = []
        for each in (model.float(), cut.float()):
            each.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                outputs.append(each(rows().float()))
            outputs[-1].float().square().sum().backward()
        assert_same(*outputs)
        assert_same(grads_of(cut), grads_of(model), tolerance=1e-2 if on else 1e-6)  # of those types
    assert captures(cut) == 3


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
@captures_again(TYPES)
def test_a_model_may_change_its_type(dtype, tolerance):
    model, cut = pair(net().float(), x=rows().float())
    for each in (model, cut):
        each.to(dtype)
    x = rows().to(dtype)
    outputs = [each(x) for each in (model, cut)]
    assert_same(*outputs)
    for out in outputs:
        out.square().sum().backward()
    assert_same(grads_of(cut), grads_of(model), tolerance)


def images(count=2):
    return torch.linspace(-1, 1, count * 3 * 64, dtype=torch.float64).sin().view(count, 3, 8, 8)


def convolutions():
    first = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()


@works(DEVICE)
def test_a_model_and_its_inputs_may_be_channels_last():
    model, cut = pair(convolutions(), plan="at:after=2", x=images())
    x = images().to(memory_format=torch.channels_last)
    assert_trains_alike(model, cut, x)
    for each in (model, cut):
        each.to(memory_format=torch.channels_last)
    assert cut[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert_trains_alike(model, cut, x)
    in_step(stir(pair(convolutions(), plan="at:after=2", synthesizer="conv", x=x)[1]), x=x)


@works(BEFORE)
def test_an_optimizer_made_before_trains_the_cut_model():
    model, other = net(), net()
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.1) for each in (model, other)]
    cut = dni_fx.decouple(model, (rows(),), plan=PLAN, synthesizer="oracle")
    for each, optimizer in zip((cut, other), optimizers, strict=True):
        optimizer.zero_grad()
        objective(each(rows())).backward()
        optimizer.step()
    assert_same(dict(model.state_dict()), dict(other.state_dict()), tolerance=1e-10)


@pytest.mark.parametrize("use_buffers", [False, True])
@works(AVERAGE)
def test_an_average_of_a_cut_model_is_the_average_of_the_model(use_buffers):
    """A flag among the buffers of the synthesizers could not be averaged."""
    pairs = [(each, AveragedModel(each, use_buffers=use_buffers)) for each in pair()]
    for _ in range(3):
        for each, average in pairs:
            in_step(each, steps=1, loss=objective)
            average.update_parameters(each)
    for _, average in pairs:
        update_bn([rows()], average)
    (_, plain), (_, ours) = pairs
    assert_same(ours.eval()(rows()), plain.eval()(rows()), tolerance=1e-10)
    learning = learned()
    average = AveragedModel(learning, use_buffers=use_buffers)
    average.update_parameters(learning), average.update_parameters(learning)
    in_step(average.module)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@works(DEVICE)
def test_a_model_may_move_to_cuda_after_the_cut_and_trains_alike():
    model, cut = pair()
    model.cuda(), cut.cuda()
    for each in (model, cut):
        in_step(each, x=rows().cuda())
    ours = {key: value for key, value in cut.state_dict().items() if not key.startswith("dni.")}
    assert_same(ours, dict(model.state_dict()), tolerance=1e-10)
    assert {value.device.type for value in cut.state_dict().values()} == {"cuda"}
    in_step(learned().cuda(), x=rows().cuda())
