"""Several values that cross at one place have one synthesizer that looks at all of them."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni_fx.dni import DNI
from dni_fx.errors import SynthesizerError
from dni_fx.interface import Interface
from dni_fx.step import Step
from dni_fx.synthesizers.conv import Conv
from dni_fx.synthesizers.layout import Layout
from dni_fx.synthesizers.linear import Linear
from dni_fx.synthesizers.mlp import MLP
from dni_fx.synthesizers.sequence import Sequence
from tests.learners import guess_of, joint, perturb, spec_of

BATCH, WIDTH, MEMORY = 5, 4, 0.99
LSTM_STATE = spec_of((BATCH, WIDTH), 1, count=2)
AFTER = "at encoder_layers_0 (after encoder.layers.0#0, encoder.layers.0#1)"


@pytest.mark.parametrize("synthesizer", [Linear(), MLP(), MLP(norm="none")], ids=str)
def test_one_backward_through_an_lstms_state_is_the_two_sided_step_written_out(synthesizer):
    cell = nn.LSTMCell(3, WIDTH).double()
    dni = DNI(LSTM_STATE, synthesizer, Interface(lr=0.0), Step(batch=BATCH))
    perturb(dni.double().learner)
    dni.scale.mean_square.copy_(torch.tensor([0.04, 0.25]) * (1 - MEMORY))
    dni.scale.seen.fill_(1)
    first, second = torch.randn(2, BATCH, 3, dtype=torch.float64)
    target = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    wanted = by_hand(dni, cell, first, second, target)
    h, c = dni(*cell(first))
    F.mse_loss(cell(second, (h, c))[0], target).backward()
    ours = [p.grad for p in (*cell.parameters(), *dni.learner.parameters())]
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-15)


def by_hand(dni, cell, first, second, target):
    """Gradients of the cell, from both of its steps, and of the learner, from its regression."""
    cell, learner = copy.deepcopy((cell, dni.learner))
    state = cell(first)
    guesses = learner(tuple(each.detach() for each in state), None).gradients
    units = (dni.scale.mean_square / (1 - MEMORY)).sqrt()
    torch.autograd.backward(
        state, [unit * guess.detach() / BATCH for unit, guess in zip(units, guesses, strict=True)]
    )
    arrived = [each.detach().requires_grad_() for each in state]
    F.mse_loss(cell(second, arrived)[0], target).backward()
    true = [each.grad * BATCH for each in arrived]
    squares = torch.stack([each.square().mean() for each in true])
    units = (torch.lerp(dni.scale.mean_square, squares, 1 - MEMORY) / (1 - MEMORY**2)).sqrt()
    errors = [g - t / unit for g, t, unit in zip(guesses, true, units, strict=True)]
    sum(error.square().mean() for error in errors).backward()
    return [p.grad for p in (*cell.parameters(), *learner.parameters())]


def test_a_joint_guess_learns_what_one_gradient_owes_to_the_other_value():
    """Each target is a map of the other value, which two learners of one value each cannot see."""
    ways = torch.randn(2, 8, 8, dtype=torch.float64) / 8**0.5
    one = spec_of((64, 8), 1)
    together, apart = Linear().build(joint(one, one)), [Linear().build(one) for _ in range(2)]
    parameters = [p for learner in (together, *apart) for p in learner.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    for _ in range(300):
        values = F.layer_norm(torch.randn(2, 64, 8, dtype=torch.float64), (8,)).unbind()
        targets = values[1] @ ways[0], values[0] @ ways[1]
        jointly = errors(together(values, None).gradients, targets)
        separately = errors([guess_of(each, v) for each, v in zip(apart, values, strict=True)], targets)
        optimizer.zero_grad()
        (jointly + separately).backward()
        optimizer.step()
    assert jointly < 1e-3
    assert separately > 0.9 * sum(target.square().mean() for target in targets)


def errors(guesses, targets):
    return sum((g - t).square().mean() for g, t in zip(guesses, targets, strict=True))


def test_join_and_split_are_inverse_whatever_the_order_of_dimensions():
    spec = joint(spec_of((4, 5, 8), 2), spec_of((5, 3, 4), 1, batch_dim=2), spec_of((4, 5, 1), 2))
    layout = Layout.of(Linear(), spec)
    values = tuple(torch.randn(value.shape, dtype=torch.float64) for value in spec.values)
    values = (values[0], values[1].float(), values[2])
    together = layout.join(values)
    assert together.shape == (4, 5, layout.features) == (4, 5, 12)
    for value, back in zip(values, layout.split(together, values), strict=True):
        assert back.dtype == value.dtype
        assert torch.equal(back, value)


@pytest.mark.parametrize("choice", [Linear(), MLP(), Sequence()], ids=str)
def test_a_small_value_is_heard_beside_a_large_one(choice):
    """Each is normalized by itself, so only the direction of the large one counts."""
    learner = perturb(choice.build(joint(spec_of((4, 5, 8), 2), spec_of((4, 5, 8), 2))))
    small, large = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    plain = learner((small, large), None).gradients
    scaled = learner((small, large * 1e6), None).gradients
    # A layer norm adds 1e-5 to the variance, which is lost beside 1e12 and not beside 1.
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-3)


def test_conv_puts_channels_side_by_side():
    learner = perturb(Conv().build(joint(spec_of((4, 3, 6, 6), 1), spec_of((4, 2, 6, 6), 1))))
    values = torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.randn(4, 2, 6, 6, dtype=torch.float64)
    inside = torch.cat([F.layer_norm(value, value.shape[1:]) for value in values], 1)
    inside = learner.hidden[0](inside)
    wanted = learner.last(F.relu(F.layer_norm(inside, inside.shape[1:])))
    assert torch.equal(torch.cat(learner(values, None).gradients, 1), wanted)


@pytest.mark.parametrize(
    ("choice", "one", "other", "sizes"),
    [
        (Linear(), ((4, 5, 8), 2), ((4, 6, 8), 2), "(b, 5) after {}#0, (b, 6) after {}#1"),
        (MLP(), ((4, 8), 1), ((4, 6, 8), 2), "(b) after {}#0, (b, 6) after {}#1"),
        (Conv(), ((4, 3, 6, 6), 1), ((4, 3, 3, 3), 1), "(b, 6, 6) after {}#0, (b, 3, 3) after {}#1"),
    ],
    ids=str,
)
def test_values_that_do_not_stand_side_by_side_are_refused(choice, one, other, sizes):
    says = (
        f"cannot build {choice} {AFTER}: its values cannot be put side by side, for they differ in batch or "
        f"positions: {sizes.replace('{}', 'encoder.layers.0')}. Use zero, delayed or oracle here, or cut "
        "where one value crosses."
    )
    with pytest.raises(SynthesizerError, match=f"^{re.escape(says)}$"):
        choice.build(joint(spec_of(*one), spec_of(*other)))


def test_values_of_different_batches_are_refused():
    spec = joint(spec_of((4, 8), 1), spec_of((8, 8), 1, dims=("2*b", 8)))
    with pytest.raises(SynthesizerError, match=re.escape("(b) after encoder.layers.0#0, (2*b) after")):
        Linear().build(spec)
    spec = joint(spec_of((4, 8), 1), spec_of((4, 8), 1, batch_dim=-1, dims=(4, 8)))
    with pytest.raises(SynthesizerError, match=re.escape("(b) after encoder.layers.0#0, (4) after")):
        Linear().build(spec)


def test_values_that_stopped_standing_side_by_side_are_refused():
    learner = Linear().build(joint(spec_of((4, 5, 8), 2), spec_of((4, 5, 8), 2)))
    says = (
        f"linear {AFTER} puts values side by side and is given batches and positions (4, 5), (4, 7). Cut "
        "where one value crosses, or choose delayed here."
    )
    with pytest.raises(SynthesizerError, match=f"^{re.escape(says)}$"):
        learner((torch.randn(4, 5, 8), torch.randn(4, 7, 8)), None)
