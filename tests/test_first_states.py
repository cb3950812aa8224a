"""A first state that the user learns gets its true gradient, and what is carried on gets none."""

import pytest
import torch
from torch import nn

import dni_fx
from tests.equality import assert_same
from tests.streams import BATCH, KINDS, LAYERS, WIDTH, chunks, detached, loss_of, made, parts, tensors

RUNTIMES = ["plain", "backprop", "local"]


def shape_of(state):
    return tensors(state())[0].shape


def parameter(state):
    """A parameter for each tensor of the state."""
    found = [nn.Parameter(torch.randn(shape_of(state), dtype=torch.float64)) for _ in tensors(state())]
    return found, lambda: found


def expanded(state):
    """One row for all samples."""
    shape = (1, *shape_of(state)[1:]) if len(shape_of(state)) == 2 else (LAYERS, 1, WIDTH)
    row = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    return [row], lambda: [row.expand(shape_of(state)) for _ in tensors(state())]


def encoded(state):
    """What a net of the user makes of something else."""
    torch.manual_seed(2)
    net, x = nn.Linear(2, WIDTH).double(), torch.ones(*shape_of(state)[:-1], 2, dtype=torch.float64)
    return list(net.parameters()), lambda: [net(x).tanh() for _ in tensors(state())]


def in_form(state, given):
    return torch.utils._pytree.tree_unflatten(given, torch.utils._pytree.tree_flatten(state())[1])


def begun(cut, runtime, x, y, state):
    """One step from a state; returns the state after it."""
    if runtime == "plain":
        outputs, after = parts(cut(x, state))
        loss_of(outputs, y).backward()
        return after
    loss = lambda returned, target: loss_of(parts(returned)[0], target)  # noqa: E731
    trainer = dni_fx.Trainer(cut, loss=loss, runtime=runtime)
    return parts(trainer.step(((x, state), y)).outputs)[1]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("first", [parameter, expanded, encoded])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stages", [1, 2])
def test_a_first_state_that_is_learned_gets_its_true_gradient(kind, first, runtime, stages):
    net, cut, state = made(kind, plan=f"balanced:stages={stages}", interface="dni:mix=0")
    for dni in dni_fx.boundaries(cut).values():
        dni.interface = dni_fx.Interface(warmup=0 if dni.spec.delay else 99)  # depth passes the truth
    torch.manual_seed(1)
    learned, make = first(state)
    (x, y), later = chunks(2)
    loss_of(parts(net(x, in_form(state, make())))[0], y).backward()
    wanted = [each.grad for each in learned]
    for each in learned:
        each.grad = None
    after = begun(cut, runtime, x, y, in_form(state, make()))
    assert all(float(each.norm()) > 1e-3 for each in wanted)
    assert_same([each.grad for each in learned], wanted, 1e-12)
    begun(cut, runtime, *later, after)
    assert_same([each.grad for each in learned], wanted, 1e-12)  # nothing comes from steps after the first
    (dni,) = [each for each in dni_fx.boundaries(cut).values() if each.spec.delay]
    assert int(dni.scale.seen) == 1  # and of the first nothing is learned: no guess is sent there


@pytest.mark.parametrize("synthesizer", ["zero", "linear"])
@pytest.mark.parametrize("kind", KINDS)
def test_state_that_a_step_has_returned_is_never_taken_for_one_that_is_learned(kind, synthesizer):
    _, cut, state = made(kind, synthesizer=synthesizer)
    (_, twin, _) = made(kind, synthesizer=synthesizer)
    scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    mine, theirs = state(), state()
    for x, y in chunks(4):
        for model, now in ((cut, mine), (twin, theirs)):
            outputs, after = parts(model(x, now))
            loss_of(outputs, y).backward()
            if model is cut:
                mine = torch.utils._pytree.tree_map(lambda each: each * scale, after)
            else:
                theirs = detached(after)
    assert scale.grad is None
    for a, b in zip(dni_fx.recouple(cut).parameters(), dni_fx.recouple(twin).parameters(), strict=True):
        assert_same(a.grad, b.grad)


def test_a_first_state_that_is_frozen_gets_nothing():
    _, cut, _ = made("gru")
    frozen = nn.Parameter(torch.randn(LAYERS, BATCH, WIDTH, dtype=torch.float64), requires_grad=False)
    (x, y), *_ = chunks(1)
    begun(cut, "plain", x, y, frozen)
    assert frozen.grad is None
