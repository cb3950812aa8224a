"""One test for each bug that was there once, and why it was one."""

import copy

import torch
from torch import nn

import dni_fx
from dni_fx.decoupled import detach
from tests.equality import assert_same, seeded
from tests.stirred import stirred_zoo
from tests.zoo import made


def test_a_graph_module_that_was_decoupled_can_be_copied():
    """fx.GraphModule brings a `__deepcopy__` that makes an object of a class of its own."""
    model, (x,) = made("chain")
    cut = dni_fx.decouple(torch.fx.symbolic_trace(model), (x,), plan="balanced:stages=2")
    twin = copy.deepcopy(cut)
    assert isinstance(twin, dni_fx.Decoupled)
    assert_same(twin(x), cut(x))


def test_a_child_with_two_names_keeps_both():
    """`named_children` yields a child under its first name only."""
    model, (x,) = made("two-names")
    back = detach(dni_fx.decouple(model, (x,)))
    assert back.last is back.first
    assert list(back.state_dict()) == list(model.state_dict())


def test_verify_compares_eval_modes_from_the_same_state():
    """The marked graph and the cut model ran on one state; a buffer that counts calls told them apart."""
    model, inputs = made("counts-calls")
    cut = dni_fx.decouple(model, inputs, plan="balanced:stages=2")
    assert all(check.ok for check in dni_fx.verify(cut).checks)


def test_one_huge_gradient_does_not_stay_in_the_running_mean_square():
    """It was finite, but its square was not, in float32: every later guess was sent up as infinity."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    (cut(x).sum() * 1e25).backward()
    (dni,) = dni_fx.boundaries(cut).values()
    assert dni.mean_square.isfinite().all()
    cut.zero_grad()
    cut(x).sum().backward()
    assert cut.layers[0].weight.grad.isfinite().all()


def test_a_batch_of_none_teaches_nothing():
    """The mean over no element is not a number."""
    cut, (x,) = stirred_zoo("chain", plan="bottleneck")
    cut(x[:0]).sum().backward()
    (dni,) = dni_fx.boundaries(cut).values()
    assert dni.mean_square.isfinite().all()


def test_cut_in_a_sequential_the_synthesizers_are_no_layer():
    """`nn.Sequential` runs all of its children, and `dni` is one of them."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    (x,) = made("chain")[1]
    cut = dni_fx.decouple(model, (x,))
    assert_same(seeded(cut.eval(), (x,)), seeded(model.eval(), (x,)))
    assert list(dict(cut.named_children())) == ["0", "1", "2", "dni"]
