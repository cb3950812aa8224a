"""What is remembered of true gradients, and for whom."""

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni_fx.dni import DNI
from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from dni_fx.step import Step
from dni_fx.synthesizers import SYNTHESIZERS
from dni_fx.synthesizers.delayed import Delayed
from passes import SpecError, parse
from tests.learners import guess_of, joint, spec_of

BATCH, CLASSES = 4, 5
VECTOR = spec_of((BATCH, 3), 1, classes=CLASSES)
TOKENS = spec_of((BATCH, 6, 3), 2, classes=CLASSES)
AT = "at encoder_layers_0 (after encoder.layers.0)"


def gradient(*shape):
    return torch.randn(shape, dtype=torch.float64)


def heard(choice, spec, *times):
    """A learner that heard of these gradients, each with its context."""
    learner = choice.build(spec)
    for target, context in times:
        learner.remember((target,), context)
    return learner


@pytest.mark.parametrize("labels", [None, torch.tensor([3, 1, 0, 2])], ids=str)
def test_on_a_repeated_batch_the_guess_is_the_true_gradient_from_the_second_step_on(labels):
    above = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)).double().requires_grad_(False)
    dni = DNI(VECTOR, Delayed(), Interface(), Step(batch=BATCH, context=labels))
    value, target = gradient(BATCH, 3).requires_grad_(), gradient(BATCH, 2)
    (true,) = torch.autograd.grad(F.mse_loss(above(value), target), value)
    sent = [torch.autograd.grad(F.mse_loss(above(dni(value)), target), value)[0] for _ in range(4)]
    assert torch.equal(sent[0], torch.zeros_like(true))
    for each in sent[1:]:
        torch.testing.assert_close(each, true, rtol=1e-6, atol=0)  # the unit is kept in float32


def test_by_place_the_guess_is_the_last_gradient_of_the_sample_at_that_place():
    first, second = gradient(4, 3), gradient(4, 3)
    learner = heard(Delayed(by="place"), VECTOR, (first, None), (second, torch.arange(4)))
    assert torch.equal(guess_of(learner, gradient(4, 3), torch.arange(4)), second)
    assert torch.equal(guess_of(learner, gradient(2, 3)), second[:2])
    more = guess_of(learner, gradient(6, 3))
    assert torch.equal(more[:4], second)
    assert torch.equal(more[4:], torch.zeros(2, 3))


def test_by_label_the_guess_is_the_running_mean_of_the_class():
    first, second = gradient(4, 3), gradient(4, 3)
    learner = heard(
        Delayed(memory=0.8),
        VECTOR,
        (first, torch.tensor([0, 0, 1, -1])),
        (second, torch.tensor([0, 2, 2, 2])),
    )
    guess = guess_of(learner, gradient(6, 3), torch.tensor([0, 1, 2, 3, -1, 0]))
    zero = torch.zeros(3, dtype=torch.float64)
    both = (0.8 * first[:2].mean(0) + second[0]) / 1.8
    wanted = torch.stack([both, first[2], second[1:].mean(0), zero, zero, both])
    torch.testing.assert_close(guess, wanted, rtol=1e-12, atol=0)
    assert torch.equal(guess[3:5], torch.zeros(2, 3))


def test_a_label_a_sample_keeps_a_mean_for_each_position():
    target, labels = gradient(4, 6, 3), torch.tensor([0, 1, 1, 2])
    learner = heard(Delayed(), TOKENS, (target, labels))
    guess = guess_of(learner, gradient(3, 6, 3), torch.arange(3))
    wanted = torch.stack([target[0], target[1:3].mean(0), target[3]])
    torch.testing.assert_close(guess, wanted, rtol=1e-12, atol=0)


def test_a_label_a_token_keeps_one_mean_for_all_positions():
    target, labels = gradient(4, 6, 3), torch.randint(CLASSES, (4, 6))
    learner = heard(Delayed(), TOKENS, (target, labels))
    guess = guess_of(learner, gradient(1, CLASSES, 3), torch.arange(CLASSES).unsqueeze(0))
    wanted = torch.stack([target[labels == label].mean(0) for label in range(CLASSES)])
    torch.testing.assert_close(guess[0], wanted, rtol=1e-12, atol=0)


def test_what_a_longer_sequence_has_more_is_learned_when_it_comes():
    short, long = gradient(1, 4, 3), gradient(1, 6, 3)
    label = torch.tensor([2])
    learner = heard(Delayed(memory=0.5), TOKENS, (short, label))
    guess = guess_of(learner, gradient(1, 6, 3), label)
    torch.testing.assert_close(guess[:, :4], short, rtol=1e-12, atol=0)
    assert torch.equal(guess[:, 4:], torch.zeros(1, 2, 3))
    learner.remember((long,), label)
    guess = guess_of(learner, gradient(1, 6, 3), label)
    torch.testing.assert_close(guess[:, :4], (0.5 * short + long[:, :4]) / 1.5, rtol=1e-12, atol=0)
    torch.testing.assert_close(guess[:, 4:], long[:, 4:], rtol=1e-12, atol=0)
    assert guess_of(learner, gradient(1, 2, 3), label).shape == (1, 2, 3)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)], ids=str)
def test_the_place_of_batch_and_features_is_read_off_the_spec(order):
    spec = spec_of(
        tuple((4, 6, 3)[at] for at in order), order.index(2), batch_dim=order.index(0), classes=CLASSES
    )
    target, labels = gradient(4, 6, 3), torch.tensor([0, 1, 1, 2])
    usual, moved = (
        heard(Delayed(), TOKENS, (target, labels)),
        heard(Delayed(), spec, (target.permute(order), labels)),
    )
    value = gradient(4, 6, 3)
    guess = guess_of(moved, value.permute(order), labels)
    assert torch.equal(guess, guess_of(usual, value, labels).permute(order))


@pytest.mark.parametrize(
    ("spec", "context"),
    [
        (VECTOR, None),
        (VECTOR, torch.rand(4, CLASSES)),
        (VECTOR, torch.arange(3)),
        (spec_of((4, 3), 1), torch.arange(4)),
        (spec_of((4, 3), 1, batch_dim=-1, dims=(4, 3), classes=CLASSES), torch.arange(4)),
    ],
    ids=["no context", "floats", "of another batch", "no classes", "no batch"],
)
def test_auto_goes_by_place_where_no_label_names_a_class(spec, context):
    target = gradient(4, 3)
    assert torch.equal(guess_of(heard(Delayed(), spec, (target, context)), gradient(4, 3), context), target)


def test_each_of_several_values_is_remembered_whatever_their_shapes():
    spec = joint(spec_of((4, 3), 1, classes=CLASSES), spec_of((4, 2, 6, 6), 1, classes=CLASSES))
    learner, values = Delayed().build(spec), (gradient(4, 3), gradient(4, 2, 6, 6))
    for labels in (None, torch.arange(4)):
        learner.remember(values, labels)
        for guess, value in zip(learner(values, labels).gradients, values, strict=True):
            torch.testing.assert_close(guess, value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("copied", ["loaded", "deepcopy", "pickle"])
def test_a_copy_remembers_the_same_and_goes_its_own_way(copied):
    labels, target, at = torch.arange(4), gradient(4, 6, 3), gradient(4, 6, 3)
    learner = heard(Delayed(), TOKENS, (target, None), (target, labels))
    before = [guess_of(learner, at, context) for context in (None, labels)]
    if copied == "loaded":
        twin = Delayed().build(TOKENS)
        assert twin.load_state_dict(learner.state_dict()).missing_keys == []
    else:
        twin = copy.deepcopy(learner) if copied == "deepcopy" else pickle.loads(pickle.dumps(learner))
    for context, guess in zip((None, labels), before, strict=True):
        assert torch.equal(guess_of(twin, at, context), guess)
        twin.remember((gradient(4, 6, 3),), context)
        assert not torch.equal(guess_of(twin, at, context), guess)
        assert torch.equal(guess_of(learner, at, context), guess)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_memories_move_with_the_model(dtype):
    target, labels = gradient(4, 3), torch.arange(4)
    learner = heard(Delayed(), VECTOR, (target, None), (target, labels)).to(dtype)
    assert {buffer.dtype for buffer in learner.buffers()} == {dtype}
    for context in (None, labels):
        guess = guess_of(learner, torch.randn(4, 3, dtype=dtype), context)
        torch.testing.assert_close(guess, target.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=0)
        learner.remember((target,), context)
    assert {buffer.dtype for buffer in learner.buffers()} == {dtype}


def test_a_guess_is_not_the_memory_itself():
    target, learner = gradient(4, 3), Delayed().build(VECTOR)
    learner.remember((target,), None)
    target.zero_()
    guess_of(learner, gradient(4, 3)).zero_()
    assert guess_of(learner, gradient(4, 3)).count_nonzero() > 0


@pytest.mark.parametrize(
    ("context", "kind"),
    [
        (None, "no labels"),
        (torch.zeros(4, 5), "a context of torch.float32 (4, 5)"),
        (torch.arange(3), "a context of torch.int64 (3,)"),
    ],
    ids=["none", "floats", "another batch"],
)
def test_by_label_refuses_to_go_by_anything_else(context, kind):
    says = (
        f"delayed:by=label {AT} goes by labels and is given {kind} for a value whose batch and positions are "
        "(4,). Pass dni_context= integer labels (batch,) or (batch, *positions), or choose by=auto."
    )
    with pytest.raises(SynthesizerError, match=f"^{re.escape(says)}$"):
        guess_of(Delayed(by="label").build(VECTOR), gradient(4, 3), context)


def test_by_label_refuses_a_boundary_where_no_class_is_known():
    says = (
        f"cannot build delayed:by=label {AT}: it goes by labels, and it is not known how many classes there "
        'are. Say it with interface="dni:classes=10", or choose by=place.'
    )
    with pytest.raises(SynthesizerError, match=f"^{re.escape(says)}$"):
        Delayed(by="label").build(spec_of((4, 3), 1))


def test_a_label_beyond_the_last_class_is_refused():
    learner = heard(Delayed(), VECTOR, (gradient(4, 3), torch.arange(4)))
    says = f"delayed {AT} is given the label 7, and its 5 classes are 0 to 4."
    with pytest.raises(SynthesizerError, match=f"^{re.escape(says)}"):
        guess_of(learner, gradient(4, 3), torch.tensor([0, 1, 2, 7]))


def test_options_survive_text():
    choice = Delayed(by="label", memory=0.5)
    assert str(choice) == "delayed:by=label,memory=0.5"
    assert parse(str(choice), SYNTHESIZERS) == choice


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("delayed:by=value", "delayed.by is auto, label or place, not 'value'."),
        ("delayed:memory=1", "delayed.memory is 0 or more and below 1, not 1.0."),
        ("delayed:memory=-0.1", "delayed.memory is 0 or more and below 1, not -0.1."),
    ],
)
def test_an_option_out_of_range_is_refused(text, says):
    with pytest.raises(SpecError, match=f"^{re.escape(says)}$"):
        parse(text, SYNTHESIZERS)
