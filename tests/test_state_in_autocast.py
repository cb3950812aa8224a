"""Under autocast a model returns its state in another type than it was given, and takes it again as it is."""

import copy

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import PlanError
from tests.equality import assert_same
from tests.processors import runs_in_half
from tests.streams import BATCH, LAYERS, SGD, WIDTH, Recurrent, chunks, detached, loss_of, tensors

LAYERS_OF_TORCH = [
    kind for kind in (nn.RNN, nn.GRU, nn.LSTM) if runs_in_half(kind(4, 6), torch.zeros(2, 3, 4))
]


def first(kind):
    zeros = torch.zeros(LAYERS, BATCH, WIDTH)
    return (zeros, zeros.clone()) if kind is nn.LSTM else zeros


def made(kind, example=True, **options):
    torch.manual_seed(0)
    net = Recurrent(kind)
    options = {"synthesizer": "linear", "plan": "balanced:stages=1", "interface": "dni:guard=0", **options}
    given = (chunks(1)[0][0], first(kind)) if example else None
    return net, dni_fx.decouple(copy.deepcopy(net), given, carry={"state": 1}, **options)


def autocast(dtype=torch.bfloat16):
    return torch.autocast("cpu", dtype)


def trained(model, state, steps):
    """The plain loop, whose forward passes alone run under autocast."""
    optimizer = SGD([p for name, p in model.named_parameters() if not name.startswith("dni.")])
    for x, y in steps:
        with autocast():
            outputs, state = model(x, state)
        optimizer.zero_grad()
        loss_of(outputs.float(), y).backward()
        optimizer.step()
        yield state


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("kind", LAYERS_OF_TORCH)
def test_zeros_are_truncated_backpropagation_and_state_has_the_models_own_type(kind, example):
    net, cut = made(kind, example, synthesizer="zero")
    now, optimizer = first(kind), SGD(net.parameters())
    for (x, y), mine in zip(chunks(5), trained(cut, now, chunks(5)), strict=True):
        with autocast():
            outputs, now = net(x, now)
        optimizer.zero_grad()
        loss_of(outputs.float(), y).backward()
        optimizer.step()
        now = detached(now)
        assert [each.dtype for each in tensors(mine)] == [each.dtype for each in tensors(now)]
        assert_same(detached(tensors(mine)), tensors(now))
    assert_same(dict(dni_fx.recouple(cut).named_parameters()), dict(net.named_parameters()))


@pytest.mark.parametrize("aux", [0, 0.1])
@pytest.mark.parametrize("kind", LAYERS_OF_TORCH)
def test_a_synthesizer_learns_from_state_of_any_type(kind, aux):
    _, cut = made(kind, interface=f"dni:guard=0,aux={aux}")
    *_, last = trained(cut, first(kind), chunks(12))
    (dni,) = dni_fx.boundaries(cut).values()
    assert int(dni.scale.seen) == 11  # all but the state that all begins with
    assert all(each.dtype is torch.float32 for each in dni.learner.parameters())
    assert float(dni.learner.layer.weight.detach().abs().max()) > 0
    assert all(each.isfinite().all() for each in (*tensors(last), *cut.parameters()))


@pytest.mark.parametrize("runtime", ["backprop", "local"])
@pytest.mark.parametrize("kind", LAYERS_OF_TORCH)
def test_a_trainer_carries_it_as_the_plain_loop_does(kind, runtime):
    (_, mine), (_, theirs) = made(kind), made(kind)
    loss = lambda returned, y: loss_of(returned[0].float(), y)  # noqa: E731
    trainer = dni_fx.Trainer(mine, loss=loss, optimizer=SGD, runtime=runtime, autocast=torch.bfloat16)
    for batch in chunks(8):
        trainer.step(batch)
    *_, _ = trained(theirs, first(kind), chunks(8))
    assert_same(
        dict(dni_fx.recouple(mine).named_parameters()), dict(dni_fx.recouple(theirs).named_parameters()), 1e-6
    )


class Widens(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, WIDTH)

    def forward(self, x, state):
        h = self.inner(x) + state.to(torch.float32)
        return h, h.double()


def test_without_autocast_another_type_is_refused():
    x, state = torch.randn(BATCH, 4), torch.zeros(BATCH, WIDTH)
    with pytest.raises(PlanError, match=r"what is carried to 'state' is torch.float64 .* is torch.float32"):
        dni_fx.decouple(Widens(), (x, state), carry={"state": 1})
