"""A cut model that was saved and loaded goes on as if it never had been."""

import copy

import pytest
import torch
import torch.nn.functional as F

import dni_fx
from tests.zoo import made

# Running statistics, random draws, shared weights, a value that skips a stage: a model for each.
MODELS = ["chain", "batch-norm", "dropout", "tied-layer", "skips-two-stages"]


def losses(model, optimizer, x, steps):
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = model(x)
        loss = F.mse_loss(outputs, torch.ones_like(outputs))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_next_losses_are_the_same_to_the_bit(name, tmp_path):
    model, (x,) = made(name)
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2", synthesizer="linear")
    optimizer = torch.optim.Adam(cut.parameters(), lr=1e-2)
    losses(cut, optimizer, x, steps=3)
    dni_fx.save(cut, tmp_path / "cut.pt2")
    state, random = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    expected = losses(cut, optimizer, x, steps=4)

    again = dni_fx.load(tmp_path / "cut.pt2")
    optimizer = torch.optim.Adam(again.parameters(), lr=1e-2)
    optimizer.load_state_dict(state)
    torch.set_rng_state(random)
    assert losses(again, optimizer, x, steps=4) == expected


def test_tied_weights_stay_one_parameter(tmp_path):
    model, (x,) = made("tied-layer")
    cut = dni_fx.decouple(model, (x,), plan="balanced:stages=2")
    dni_fx.save(cut, tmp_path / "cut.pt2")
    again = dni_fx.load(tmp_path / "cut.pt2")
    ours, theirs = ([n for n, _ in each.named_parameters()] for each in (again, cut))
    assert ours == theirs
    assert list(again.state_dict()) == list(cut.state_dict())
