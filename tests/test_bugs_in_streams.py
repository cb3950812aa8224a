"""Bugs of what carried state learns and teaches that were found once."""

import copy

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import DniError, SynthesizerError
from dni_fx.runtimes.local import Local
from tests.carrying import Steps, inputs, made, train
from tests.equality import assert_same
from tests.streams import SGD


def test_code_that_torch_compiles_carries_state_as_the_model_does():
    """The compiler followed the edge back itself, and no synthetic gradient came to the state."""
    cut, state = made()
    compiled, _ = made()
    theirs = train(cut, state, "plain", lambda returned, _: returned[0].square().mean(), lambda r: r[1])
    twin = torch.compile(compiled, backend="aot_eager")
    optimizer = SGD(dni_fx.recouple(compiled).parameters())
    for x in inputs(10):
        y, state = twin(x, state.detach())  # of state that hangs on a step torch warns by itself
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()
    assert_same([parameter.detach() for parameter in dni_fx.recouple(compiled).parameters()], theirs)
    seen = int(dni_fx.boundaries(compiled)["carried_state"].scale.seen)
    assert seen == 9  # of the zeros that it began with there is nothing to learn


def test_episodes_are_refused_in_compiled_code_where_no_state_is_carried():
    """The mask was dropped without a word."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    cut = dni_fx.decouple(net, torch.randn(3, 4), synthesizer="linear")
    twin = torch.compile(cut, backend="aot_eager")
    with pytest.raises(DniError, match="decoupled with carry="):
        twin(torch.randn(3, 4), dni_reset=torch.zeros(3, dtype=torch.bool))


def guessed(cut, x, state, loss):
    """The parameters, their gradients by a loss of the outputs, and by what is guessed for the state."""
    twin, (dni,) = dni_fx.recouple(cut), [d for d in dni_fx.boundaries(cut).values() if d.spec.delay]
    parameters = list(twin.parameters())
    y, h = twin(x, state)
    synthesis = dni.synthesize((h.detach(),), learns=False)
    (up,) = dni.upward(synthesis, (h,), (None,), 0)
    alone = torch.autograd.grad(loss((y, h)), parameters, retain_graph=True, materialize_grads=True)
    return (
        parameters,
        alone,
        torch.autograd.grad(h, parameters, up, allow_unused=True, materialize_grads=True),
    )


def stirred(**options):
    """A cut model whose synthesizers say something, and its state."""
    cut, state = made(**{"plan": "balanced:stages=1", "interface": "dni:guard=0,trust=0", **options})
    for _ in range(3):
        train(cut, state, "plain", lambda returned, _: returned[0].square().mean(), lambda r: r[1])
    cut(inputs(1)[0], state)  # takes the update that waits
    return cut, state + 0.1


@pytest.mark.parametrize("at", [0, 1])
def test_a_loss_of_the_state_alone_brings_what_is_guessed_for_it(at):
    """Other outputs brought it, and no backward pass came through them."""
    cut, state = stirred()
    (x,) = inputs(1)
    parameters, alone, more = guessed(cut, x, state, lambda returned: returned[at].square().mean())
    cut.zero_grad()
    cut(x, state)[at].square().mean().backward()
    assert any(each.any() for each in more)
    for parameter, one, other in zip(parameters, alone, more, strict=True):
        found = torch.zeros_like(one) if parameter.grad is None else parameter.grad
        assert_same(found, one + other, 1e-12)


def test_state_that_comes_out_can_be_taken_off_its_graph_in_place():
    cut, state = made()
    y, state = cut(inputs(1)[0], state)
    y.square().mean().backward()
    assert not state.detach_().requires_grad


@pytest.mark.parametrize("mix", [0.5, 1.0])
def test_what_is_guessed_for_the_state_fades_in(mix):
    """It came whole as soon as the warm-up was over, whatever `fade` and `mix` said."""
    cut, state = stirred()
    (x,) = inputs(1)
    parameters, alone, more = guessed(cut, x, state, lambda returned: returned[0].square().mean())
    dni_fx.boundaries(cut)["carried_state"].interface = dni_fx.Interface(mix=mix, guard=0)
    cut.zero_grad()
    cut(x, state)[0].square().mean().backward()
    for parameter, one, other in zip(parameters, alone, more, strict=True):
        assert_same(parameter.grad, one + (1 - mix) * other, 1e-12)


class Sums(Steps):
    """The state is made in the first stage, the outputs in the second."""

    def forward(self, x, state):
        h = self.next(x, state)
        return self.out(h * 2), h


def test_a_stage_gets_what_is_guessed_for_its_state_where_a_later_one_is_idle(monkeypatch):
    """The output of the later one was to bring it, and no backward pass went there, or it was refused."""
    monkeypatch.setattr(Local, "chosen", lambda *of: {0})
    cut, state = stirred(cls=Sums, plan="at:after=:mul")
    (x,) = inputs(1)
    *_, more = guessed(cut, x, state, lambda returned: returned[0].square().mean())
    moved = []
    for warmup in (0, 1_000_000):
        twin = copy.deepcopy(cut)
        dni_fx.boundaries(twin)["carried_state"].interface = dni_fx.Interface(warmup=warmup, guard=0)
        trainer = dni_fx.Trainer(
            twin, loss=lambda returned, _: returned[0].square().mean(), optimizer=SGD, runtime="local"
        )
        trainer.step(((x, state), None))
        moved.append([parameter.detach() for parameter in dni_fx.recouple(twin).parameters()])
    assert any(each.any() for each in more)
    for taught, untaught, up in zip(*moved, more, strict=True):
        torch.testing.assert_close(taught, untaught - 0.3 * up, rtol=0, atol=1e-15)


@pytest.mark.parametrize("synthesizer", ["critic", "local-head", "sobolev"])
def test_what_learns_from_labels_or_the_loss_is_refused_on_the_edge_back(synthesizer):
    """It was asked how many classes there are, which did not help, or never told the loss of a step."""
    with pytest.raises(SynthesizerError, match=r'synthesizer={"carried_state": "linear", "\*": '):
        made(synthesizer=synthesizer)
    made(synthesizer={"carried_state": "linear", "*": synthesizer}, interface="dni:classes=2")


def test_an_auxiliary_task_that_comes_late_is_refused():
    """It was passed over."""
    cut, state = made()
    dni_fx.boundaries(cut)["carried_state"].interface = dni_fx.Interface(aux=0.5)
    with pytest.raises(SynthesizerError, match=r"carried_state .* has no auxiliary task"):
        cut(inputs(1)[0], state)


def test_transforms_are_refused_where_state_is_carried():
    """State was opened before anybody looked, and the error spoke of that."""
    cut, state = made()
    with pytest.raises(DniError, match=r"torch\.func cannot transform"):
        torch.func.grad(lambda x: cut(x, state)[0].sum())(inputs(1)[0])


@pytest.mark.parametrize("synthesizer", ["zero", "delayed"])
def test_an_auxiliary_task_without_weights_is_refused(synthesizer):
    """The first backward pass failed on a loss that hangs on nothing."""
    with pytest.raises(SynthesizerError, match="has no weights to learn an auxiliary task with"):
        made(synthesizer=synthesizer, interface="dni:aux=0.5")
