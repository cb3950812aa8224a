"""Where operations run whose operands are on several devices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni_fx.runtimes.meeting import Meeting
from tests.pretended import PAIR, MixedError, Pretended, machine

__all__ = ["machine"]

pytestmark = pytest.mark.usefixtures("machine")
ONE, TWO = PAIR


@pytest.fixture
def meeting():
    return Meeting([torch.device(each) for each in PAIR])


def on(device, *shape):
    return Pretended(torch.randn(*(shape or (3, 3))), device)


OPERATIONS = {
    "of the last device": (lambda a, b: a + b, TWO),
    "turned around": (lambda a, b: b - a, TWO),
    "in a list": (lambda a, b: torch.cat([a, b]), TWO),
    "in a keyword": (lambda a, b: torch.mul(input=a, other=b), TWO),
    "of many": (lambda a, b: torch.where(a > 0, b, a), TWO),
    "with weights": (lambda a, b: F.linear(b, nn.Parameter(a)), ONE),
    "with weights of both": (lambda a, b: F.linear(nn.Parameter(b), nn.Parameter(a)), TWO),
    "by an operator": (lambda a, b: torch.ops.aten.add.Tensor(a, b), TWO),
    "in place": (lambda a, b: a.add_(b), ONE),
    "in place by an operator": (lambda a, b: torch.ops.aten.add_.Tensor(a, b), ONE),
    "in place by a sign": (lambda a, b: a.__iadd__(b), ONE),
    "written to": (lambda a, b: torch.add(b, b, out=a), ONE),
    "copied": (lambda a, b: a.copy_(b), ONE),
    "like another": (lambda a, b: a.to(b), TWO),
    "looked up": (lambda a, b: b[(a[0] > 9).long()], TWO),
    "a loss": (lambda a, b: F.mse_loss(a, b), TWO),
    "of one": (lambda a, b: a.sum(0), ONE),
    "sized like": (lambda a, b: a[:1].expand_as(b), ONE),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_runs(name, meeting):
    run, device = OPERATIONS[name]
    a, b = on(ONE), on(TWO)
    expected = run(a.inner.clone(), b.inner.clone())
    with meeting:
        out = run(a, b)
    assert str(out.device) == device
    assert torch.equal(out.detach().inner, expected)


def test_without_it_the_operands_do_not_meet():
    with pytest.raises(MixedError, match="cpu:1, cpu:2"):
        on(ONE) + on(TWO)


def test_rows_are_written_where_the_tensor_is(meeting):
    a, b = on(ONE), on(TWO)
    with meeting:
        a[(b[0] > 9).long()] = b[0]
    assert str(a.device) == ONE
    assert torch.equal(a.inner[0], b.inner[0])


def test_gradients_come_back_to_where_the_operands_are(meeting):
    a, b = on(ONE).requires_grad_(), on(TWO).requires_grad_()
    with meeting:
        torch.autograd.backward([(a * b).sum(), a.sum()])
        (again,) = torch.autograd.grad((a * b).sum(), [a])
    assert [str(each.grad.device) for each in (a, b)] == [ONE, TWO]
    assert torch.equal(a.grad.inner, b.detach().inner + 1)
    assert torch.equal(again.inner, b.detach().inner)


def test_what_is_on_no_device_of_them_is_left_there(meeting):
    with meeting, pytest.raises(MixedError):
        on(ONE) + torch.ones(3, 3)
    with meeting:
        assert str((on(ONE) + torch.tensor(1.0)).device) == ONE


def test_lists_that_are_written_to_are_not_copied(meeting):
    ones = [on(ONE), on(TWO)]
    with meeting, pytest.raises(MixedError):  # GPUs take them one by one
        torch._foreach_mul_(ones, 2)


def test_it_can_be_left_and_is_there_again(meeting):
    a, b = on(ONE), on(TWO)
    with meeting:
        with meeting.left(), pytest.raises(MixedError):
            a + b
        a + b
