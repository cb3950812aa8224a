"""A message between two models: the sender trains on a guess, the receiver teaches it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import StageError
from tests.equality import assert_same

BATCH, WIDTH, RATE = 3, 4, 2


def pair():
    """A sender, a receiver and a link in float64."""
    torch.manual_seed(0)
    sender = nn.ModuleDict({"message": nn.Linear(5, WIDTH), "scores": nn.Linear(5, 2)}).double()
    receiver = nn.Linear(RATE * WIDTH, 2).double()
    link = dni_fx.Link(torch.zeros(BATCH, WIDTH).double(), RATE, interface="dni:clip=0,guard=0,trust=0")
    return sender, receiver, link


def batches(count):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, 5, generator=draw).double() for _ in range(count)]


def one(sender, receiver, link, x):
    """One step of the sender, and one of the receiver when it is time; returns the gradients of both."""
    y = torch.zeros(BATCH, dtype=torch.long)
    sender.zero_grad(), receiver.zero_grad()
    (F.cross_entropy(sender["scores"](x), y) + link(sender["message"](x))).backward()
    if link.is_full:
        F.cross_entropy(receiver(link.take().flatten(1)), y).backward()
    return [parameter.grad for parameter in (*sender.parameters(), *receiver.parameters())]


def test_the_algorithm_by_hand_gives_the_same_gradients():
    sender, receiver, link = pair()
    layer = copy.deepcopy(link.dni.learner.layer)
    adam = torch.optim.Adam(layer.parameters(), link.dni.interface.lr)
    square, seen, kept = torch.zeros(()), 0, []
    y = torch.zeros(BATCH, dtype=torch.long)

    def guess(message):
        return layer(message * (1 + message.square().mean(-1, keepdim=True)).rsqrt())

    for x in batches(20):
        unit = (square / (1 - 0.99 ** max(seen, 1))).sqrt()
        ours = one(sender, receiver, link, x)
        message = sender["message"](x)
        if seen and len(kept) == 0:
            adam.step()
            adam.zero_grad()
        up = guess(message.detach()).detach() * (unit * (1 / BATCH))
        loss = F.cross_entropy(sender["scores"](x), y) + (message * up).sum()
        wanted = torch.autograd.grad(loss, list(sender.parameters()))
        assert_same(ours[: len(wanted)], list(wanted), 1e-12)
        kept.append(message.detach())
        if len(kept) == RATE:
            together = torch.stack(kept, 1).requires_grad_()
            told = [guess(each) for each in kept]
            (true,) = torch.autograd.grad(F.cross_entropy(receiver(together.flatten(1)), y), [together])
            for a, b in zip(told, (true * BATCH).unbind(1), strict=True):
                seen += 1
                square.lerp_(b.square().mean().float(), 1 - 0.99)
                now = (square / (1 - 0.99**seen)).sqrt()
                (a - b / now).square().mean().backward()
            kept = []
    assert float(layer.weight.detach().abs().max()) > 0.01


def test_messages_arrive_in_order_and_carry_no_gradient_back():
    sender, _, link = pair()
    xs = batches(RATE)
    for x in xs:
        link(sender["message"](x))
    taken = link.take()
    assert torch.equal(taken, torch.stack([sender["message"](x) for x in xs], 1))
    taken.sum().backward()
    assert all(parameter.grad is None for parameter in sender.parameters())


def test_what_waits_is_in_the_state_dict():
    sender, receiver, link = pair()
    for x in batches(5):
        one(sender, receiver, link, x)
    again = dni_fx.Link(torch.zeros(BATCH, WIDTH).double(), RATE, interface="dni:clip=0,guard=0,trust=0")
    again.load_state_dict(link.state_dict())
    for x in batches(4):
        assert_same(one(sender, receiver, link, x), one(sender, receiver, again, x))


def test_in_eval_mode_and_without_gradients_messages_are_only_passed_on():
    sender, _, link = pair()
    for x in batches(RATE):
        assert not link.eval()(sender["message"](x)).requires_grad
    assert not link.take().requires_grad
    assert int(link.dni.scale.seen) == 0


def test_a_guard_says_where_the_guess_of_a_link_is_trusted_again():
    sender, receiver, _ = pair()
    link = dni_fx.Link(
        torch.zeros(BATCH, WIDTH).double(), RATE, interface="dni:guard=2,trust=0,clip=0,lr=1e-30"
    )
    with torch.no_grad():
        link.dni.learner.layer.bias.fill_(float("nan"))
    one(sender, receiver, link, batches(1)[0])
    with pytest.warns(UserWarning, match=r"sends zeros from now on; link\.dni\.guard\.release\(\) trusts it"):
        one(sender, receiver, link, batches(1)[0])  # the receiver ticks, and two guesses are compared
    assert link.dni.guard.locked
    link.dni.guard.release()
    assert not link.dni.guard.locked


def test_messages_that_nobody_takes_are_told():
    sender, _, link = pair()
    with pytest.raises(StageError, match="0 messages wait, and the receiver ticks for 2"):
        link.take()
    for x in batches(RATE):
        link(sender["message"](x))
    with pytest.raises(StageError, match="2 messages wait already"):
        link(sender["message"](batches(1)[0]))
    link.clear()
    link(sender["message"](batches(1)[0]))
    with pytest.raises(StageError, match="rate is 1 or more"):
        dni_fx.Link(torch.zeros(2, 3), 0)
