"""State that a model returns and is given again: a cut in time, with a synthesizer on the state."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import DniError, PlanError
from tests.equality import assert_same
from tests.live_bytes import LiveBytes
from tests.streams import (
    BATCH,
    KINDS,
    LAYERS,
    WIDTH,
    Recurrent,
    chunks,
    detached,
    loss_of,
    made,
    parts,
    tensors,
    train,
)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_are_truncated_backpropagation(kind):
    net, cut, state = made(kind, synthesizer="zero")
    optimizer, now = torch.optim.SGD(net.parameters(), lr=0.3), state()
    for x, y in chunks(6):
        outputs, now = parts(net(x, detached(now)))
        optimizer.zero_grad()
        loss_of(outputs, y).backward()
        optimizer.step()
    last = train(cut, state(), chunks(6))
    for mine, theirs in zip(dni_fx.recouple(cut).parameters(), net.parameters(), strict=True):
        assert_same(mine, theirs)
    assert_same(detached(tensors(last)), detached(tensors(now)))


def rows(state):
    """State as one row for each sample: batch first, layers side by side."""
    return [each if each.dim() == 2 else each.movedim(1, 0).flatten(1) for each in tensors(state)]


class ByHand:
    """The algorithm of the paper, step by step, with a linear synthesizer in units of the gradients."""

    def __init__(self, dni, aux=0.0):
        self.layer = copy.deepcopy(dni.learner.layer)
        self.adam = torch.optim.Adam(self.layer.parameters(), dni.interface.lr, eps=1e-8)
        self.squares = torch.zeros(len(dni.spec.values))  # kept in float32, whatever the model is
        self.seen = 0

    def guess(self, state):
        flat = rows(state)
        whole = torch.cat(
            [F.layer_norm(each, each.shape[-1:]) if each.shape[-1] >= 8 else _small(each) for each in flat], 1
        )
        return self.layer(whole).split([each.shape[1] for each in flat], 1)

    def unit(self):
        return (self.squares / (1 - 0.99 ** max(self.seen, 1))).sqrt()

    def learn(self, told, true):
        self.seen += 1
        self.squares.lerp_(torch.stack([each.square().mean() for each in true]).float(), 1 - 0.99)
        unit = self.unit()
        error = sum(((a - b / u).square()).mean() for a, b, u in zip(told, true, unit, strict=True))
        self.adam.zero_grad()
        error.backward()


def _small(value):
    return value * (1 + value.square().mean(-1, keepdim=True)).rsqrt()


@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_algorithm_of_the_paper_by_hand_gives_the_same_parameters(kind, scale):
    net, cut, state = made(kind, interface=f"dni:scale={scale},clip=0,guard=0,trust=0")
    (dni,) = dni_fx.boundaries(cut).values()
    hand = ByHand(dni)
    parameters, now = list(net.parameters()), state()
    for number, (x, y) in enumerate(chunks(20)):
        hand.adam.step()
        start = torch.utils._pytree.tree_map(lambda each: each.detach().requires_grad_(), now)  # (1)
        told = hand.guess(detached(start))
        outputs, now = parts(net(x, start))  # (2)
        loss = loss_of(outputs, y)
        unit = hand.unit() * (scale / BATCH)
        guess = [(each * u).detach() for each, u in zip(hand.guess(detached(now)), unit, strict=True)]  # (3)
        found = torch.autograd.grad([loss, *rows(now)], [*parameters, *tensors(start)], [None, *guess])  # (4)
        true = [each * BATCH for each in rows(list(found[len(parameters) :]))]
        if number:  # no guess is ever sent for the state of zeros that all begins with
            hand.learn(told, true)  # (5)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, found, strict=False):
                parameter -= 0.3 * gradient  # (6)
    train(cut, state(), chunks(20))
    for mine, theirs in zip(dni_fx.recouple(cut).parameters(), parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    assert float(hand.layer.weight.detach().abs().max()) > 0.01  # it did guess


@pytest.mark.parametrize("kind", KINDS)
def test_state_that_is_not_carried_on_trains_as_ever_where_true_gradients_go(kind):
    _, cut, state = made(kind)
    (x, _), *_ = chunks(1)
    report = dni_fx.verify(cut, (x, state()))
    assert report.ok, str(report)


def test_an_episode_ends_sample_by_sample():
    _, cut, state = made("lstm", interface="dni:clip=0,guard=0,trust=0")
    train(cut, state(), chunks(5))
    ends = torch.tensor([True, False, True])
    (x, y), *_ = chunks(1)
    gradients = {}
    for mask in (None, torch.zeros(BATCH, dtype=torch.bool), ends, torch.ones(BATCH, dtype=torch.bool)):
        twin = copy.deepcopy(cut)
        outputs, after = twin(x, state(), dni_reset=mask)
        loss_of(outputs, y).backward()
        gradients[mask] = [p.grad for p in dni_fx.recouple(twin).parameters()]
        for each in after:
            gone = torch.zeros(BATCH, dtype=torch.bool) if mask is None else mask
            assert not each[:, gone].any()
            assert each[:, ~gone].all()
    none, nobody, some, everybody = gradients.values()
    assert_same(none, nobody)
    twin = copy.deepcopy(dni_fx.recouple(cut))
    loss_of(twin(x, state())[0], y).backward()
    assert_same(everybody, [p.grad for p in twin.parameters()], 1e-12)
    weight = [name for name, _ in twin.named_parameters()].index("core.weight_hh_l0")
    assert 0 < (some[weight] - everybody[weight]).norm() < (none[weight] - everybody[weight]).norm() * 2
    assert not torch.equal(some[weight], none[weight])


def test_from_states_that_begin_an_episode_nothing_is_learned():
    ends, (x, y) = torch.tensor([True, False, True]), chunks(1)[0]
    found = []
    for rows_ in (slice(None), slice(1, 2)):  # with the samples that begin, and without them
        _, cut, state = made("lstm", interface="dni:guard=0,trust=0", plan="balanced:stages=1")
        now = train(cut, state(), chunks(5))
        _, now = cut(x, now, dni_reset=ends)
        loss_of(cut(x[rows_], tuple(each[:, rows_] for each in now))[0], y[rows_]).backward()
        (dni,) = dni_fx.boundaries(cut).values()
        dni.step()
        found.append([*dni.learner.parameters()])
    for whole, part in zip(*found, strict=True):
        assert_same(whole, part, 1e-7)  # the running mean of squares is kept in float32


def test_trust_sends_the_part_of_a_guess_that_would_have_been_nearest_to_the_truth():
    _, cut, state = made("lstm", interface="dni:guard=0,clip=0,trust=5", plan="balanced:stages=1")
    (dni,) = dni_fx.boundaries(cut).values()
    now = train(cut, state(), chunks(20))
    pairs, study = [], dni._study

    def watched(synthesis, truths):
        each = zip(synthesis.gradients, synthesis.units, truths, strict=True)
        pairs.append([(guess.detach() * unit, BATCH * truth) for guess, unit, truth in each])
        study(synthesis, truths)

    dni._study = watched
    train(cut, now, chunks(150))
    weights = [(1 - 1 / 5) ** age for age in reversed(range(len(pairs)))]
    for value, factor in enumerate(dni.trust.factors()):
        of = [each[value] for each in pairs]
        product = sum(w * (g * t).sum() / t.square().sum() for w, (g, t) in zip(weights, of, strict=True))
        square = sum(w * g.square().sum() / t.square().sum() for w, (g, t) in zip(weights, of, strict=True))
        assert factor == pytest.approx(min(max(float(product / square), 0), 1), abs=1e-5)
    assert any(0 < factor < 1 for factor in dni.trust.factors())


def test_without_gradients_episodes_end_as_well():
    _, cut, state = made("lstm")
    (x, _), *_ = chunks(1)
    with torch.no_grad():
        _, (h, c) = cut.eval()(x, state(), dni_reset=torch.tensor([True, False, False]))
    assert not h[:, 0].any()
    assert h[:, 1:].all()
    assert not c[:, 0].any()


def test_the_auxiliary_task_changes_what_is_learned():
    ends = []
    for aux in (0, 0.5):
        _, cut, state = made("lstm", interface=f"dni:aux={aux},guard=0,trust=0")
        train(cut, state(), chunks(12))
        ends.append([p.detach() for p in dni_fx.recouple(cut).parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_auxiliary_task_is_learned_and_its_gradient_joins_what_arrives_at_the_state():
    _, cut, _ = made("lstm", interface="dni:aux=0.5,lr=0.01")
    (dni,) = dni_fx.boundaries(cut).values()
    state = tuple(torch.randn(BATCH, LAYERS * WIDTH, dtype=torch.float64, requires_grad=True) for _ in "hc")
    later = tuple(torch.randn_like(each) for each in state)
    errors = []
    for _ in range(300):
        found = dni.ahead.compare(state, later, dni.interface)
        errors.append(dni.ahead.error)
        wanted = torch.cat(dni.ahead.learner(state, None).gradients) - torch.cat(later)
        by_hand = torch.autograd.grad(0.5 * wanted.square().mean(), state)
        assert_same(list(found), list(by_hand), 1e-12)
        dni.step()
    assert errors[-1] < errors[0] / 10


def test_cuts_in_depth_and_in_time_go_together():
    _, cut, state = made("lstm", plan="balanced:stages=2", synthesizer="mlp")
    assert len(dni_fx.boundaries(cut)) == 2
    assert dni_fx.boundaries(cut)["carried_state"].spec.delay == 1
    train(cut, state(), chunks(8))
    seen = {name: int(dni.scale.seen) for name, dni in dni_fx.boundaries(cut).items()}
    assert sorted(seen.values()) == [7, 8]
    assert seen["carried_state"] == 7  # from the state that all begins with nothing is to be learned


def test_memory_does_not_grow_with_the_sequence():
    _, cut, state = made("lstm", interface="dni:guard=0,trust=0")
    now = train(cut, state(), chunks(4))
    few, many = chunks(4), chunks(200)
    with LiveBytes(cut.state_dict(), few, many) as seen:
        for _ in range(3):
            now = train(cut, now, few)
        peak = seen.peak
        train(cut, now, many)
    assert seen.peak == peak


@pytest.mark.parametrize(
    ("carry", "told"),
    [
        ({"stat": 1}, "passes no tensor in it; it passes x, state"),
        ({"state": 2}, "the model returns a tuple of 2"),
        ({"state": "1.0"}, "holds 2 tensors, and the output '1.0'"),
        ({"x": 0}, "what is carried to 'x' is torch.float64"),
    ],
)
def test_an_edge_that_is_none_is_told(carry, told):
    torch.manual_seed(0)
    net = Recurrent(nn.LSTM).double()
    (x, _), *_ = chunks(1)
    with pytest.raises(PlanError, match=told):
        dni_fx.decouple(net, (x, KINDS["lstm"][1]()), carry=carry)


def test_a_mask_without_carried_state_is_refused():
    net = nn.Linear(3, 3)
    cut = dni_fx.decouple(net, (torch.randn(2, 3),), plan="balanced:stages=1")
    with pytest.raises(DniError, match="decoupled with carry="):
        cut(torch.randn(2, 3), dni_reset=torch.zeros(2, dtype=torch.bool))


def test_a_guard_that_locks_an_edge_back_sends_zeros_and_says_so():
    net, cut, state = made("lstm", interface="dni:guard=0,trust=0,lr=1e-30")
    (dni,) = dni_fx.boundaries(cut).values()
    train(cut, state(), chunks(2))
    dni.interface = dni_fx.Interface(guard=3, lr=1e-30, trust=0)
    with torch.no_grad():
        dni.learner.layer.weight.fill_(float("nan"))
    with pytest.warns(
        UserWarning, match="carried_state were not finite.*The boundary sends zeros from now on"
    ):
        train(cut, state(), chunks(4))
    net.load_state_dict(dni_fx.recouple(cut).state_dict())
    (x, y), *_ = chunks(1)
    for model in (cut, net):
        model.zero_grad()
        loss_of(parts(model(x, state()))[0], y).backward()
    for mine, theirs in zip(dni_fx.recouple(cut).parameters(), net.parameters(), strict=True):
        assert_same(mine.grad, theirs.grad)


def test_unless_told_otherwise_an_edge_back_sends_what_the_truth_bears_out_and_has_no_guard():
    _, cut, state = made("lstm", synthesizer="auto")
    (dni,) = dni_fx.boundaries(cut).values()
    assert str(dni.learner).startswith(
        str(dni.synthesizer.choose(dni.spec).build(dni.spec)).partition("(")[0]
    )
    now = train(cut, state(), chunks(60))  # random targets, of which nothing can be learned
    train(cut, now, chunks(60))
    assert not dni.guard.locked
    assert all(0 <= factor < 0.5 for factor in dni.trust.factors())
