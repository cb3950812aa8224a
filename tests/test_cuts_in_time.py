"""The state of recurrent nets is cut every so many steps, inside of one call."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni_fx
from dni_fx.errors import SynthesizerError
from dni_fx.runtimes import Recipe
from dni_fx.runtimes.backprop import Backprop
from dni_fx.runtimes.local import Local
from tests.equality import assert_same, copied, gradients, objective, seeded
from tests.recurrent import EVERY, LAYERS, NETS, inputs_for, net_for, timed

pytestmark = pytest.mark.filterwarnings(
    # What the compiler looks at when it traces an autograd function, and when it stops at a layer.
    "ignore:.*Function.> should not be instantiated:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)

LENGTHS = (5, 14, 16, 3)
"""More than a chunk, no multiple of one, a multiple, and less."""

FRONTENDS = ("auto", "export")
WAYS = [(name, "auto") for name in NETS] + [(name, "export") for name in LAYERS]
"""Loops are unrolled by export in any case."""


@pytest.mark.parametrize(("name", "frontend"), WAYS)
def test_true_gradients_at_every_cut_are_those_of_the_whole_sequence(name, frontend):
    net = net_for(name)
    cut = timed(net, synthesizer="oracle", frontend=frontend)
    args = inputs_for(net)
    assert_same(original(gradients(cut, args)), gradients(net, args), 1e-10)


@pytest.mark.parametrize("name", ["stack", "given", "lstm cell", "by hand"])
def test_a_mix_of_true_and_no_gradients_is_that_of_both_nets(name):
    mix, net = 0.3, net_for(name)
    cut, args = timed(net, synthesizer="zero", interface=f"dni:mix={mix}", every=7), inputs_for(net)
    found = original(gradients(cut, args))
    whole, apart = gradients(net, args), gradients(net, args, kwargs={"every": 7})
    wanted = {key: plus(mix, whole[key], apart[key]) for key in whole}
    assert_same(found, wanted, 1e-10)


def plus(mix, whole, apart):
    return None if whole is None else mix * whole + (1 - mix) * apart


@pytest.mark.parametrize(("name", "frontend"), WAYS)
def test_without_gradients_at_the_cuts_it_is_truncated_backpropagation_written_by_hand(name, frontend):
    net = without_dropout(net_for(name))
    cut = timed(net, synthesizer="zero", frontend=frontend)
    for length in (14, 16, 5):
        args = inputs_for(net, length)
        found, wanted = original(gradients(cut, args)), gradients(net, args, kwargs={"every": EVERY})
        assert_same(found, wanted, 1e-10)
    assert any(not same(each, wanted[key]) for key, each in gradients(net, args).items())


@pytest.mark.parametrize(("name", "frontend"), WAYS)
def test_outputs_are_the_nets_own_for_any_length_and_batch(name, frontend):
    net = net_for(name)
    cut = timed(net, frontend=frontend)
    for length in LENGTHS:
        for batch in (5, 2):
            args = inputs_for(net, length, batch)
            assert_same(seeded(cut, args), seeded(net, args), 1e-12)
    cut.eval()
    assert_same(cut(*args), net.eval()(*args))


@pytest.mark.parametrize("name", NETS)
def test_a_chunk_as_long_as_the_sequence_calls_no_boundary(name):
    net = net_for(name)
    cut, args = timed(net, every=14, synthesizer="zero"), inputs_for(net)
    asked = heard(cut)
    assert_same(original(gradients(cut, args)), gradients(net, args))
    assert asked == []


@pytest.mark.parametrize("name", NETS)
def test_it_passes_verification(name):
    report = dni_fx.verify(timed(net_for(name)))
    assert report.ok, str(report)


@pytest.mark.parametrize("name", NETS)
def test_there_is_one_synthesizer_which_learns_from_every_cut(name):
    net = net_for(name)
    cut = timed(net)
    (only,) = dni_fx.boundaries(cut).values()
    for length, times in ((14, 3), (16, 3), (17, 4), (5, 1), (4, 0)):
        learned, seen = heard(cut), int(only.scale.seen)
        objective(cut(*inputs_for(net, length))).backward()
        assert len(learned) == times
        assert int(only.scale.seen) - seen == times
        assert list(dni_fx.boundaries(cut).values()) == [only]
    assert [key for key in cut.state_dict() if not key.startswith("dni.")] == list(net.state_dict())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_captured_once_for_all_lengths(name):
    net = net_for(name)
    cut = timed(net)
    before = len(cut._dni.program.captures)
    for length in (5, 9, 16):
        objective(cut(*inputs_for(net, length))).backward()
    assert len(cut._dni.program.captures) == before == 1


@pytest.mark.parametrize("interface", ["dni", "dni:warmup=3,every=2", "dni:lr=0"])
@pytest.mark.parametrize("name", ["stack of gru", "given", "by hand"])
@pytest.mark.parametrize("plan", ["time:every=4", "balanced:stages=2,time=4"])
def test_after_some_steps_of_sgd_local_has_the_weights_of_the_plain_loop(name, interface, plan):
    net = without_dropout(net_for(name))
    ours = timed(net, plan=plan, interface=interface, synthesizer="mlp")
    theirs, before = copied(ours), copied(net).state_dict()
    for cut, runtime in ((ours, Local()), (theirs, Backprop())):
        worker = runtime.start(cut, Recipe(lambda out, _: objective(out) / 8, sgd))
        for length in (14, 9, 14):
            worker.step(inputs_for(net, length), {}, None, None)
    state = dict(dni_fx.recouple(theirs).state_dict())
    assert_same(dict(dni_fx.recouple(ours).state_dict()), state, 1e-10)
    assert not all(torch.equal(state[key], value) for key, value in before.items())


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


def test_every_guess_of_a_step_hears_of_the_loss():
    net = net_for("lstm")
    cut = timed(net, synthesizer="sobolev")
    (only,) = dni_fx.boundaries(cut).values()
    for _ in range(2):
        with cut._dni.step.telling_loss():
            loss = objective(cut(*inputs_for(net)))
        assert len(only.waits_for_loss) == 3
        loss.backward()
    only.hear(loss)
    assert only.waits_for_loss == []


@pytest.mark.parametrize("shape", [(5,), (5, 14)])
def test_a_synthesizer_of_state_sees_the_label_of_a_sample_and_not_those_of_steps(shape):
    net = net_for("lstm cell")
    cut = timed(net, synthesizer="mlp", interface="dni:classes=3")
    (only,) = dni_fx.boundaries(cut).values()
    seen = []
    only.learner.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    labels = torch.ones(shape, dtype=torch.long)
    objective(cut(*inputs_for(net), dni_context=labels)).backward()
    assert len(seen) == 3
    assert all(each is (labels if shape == (5,) else None) for each in seen)


def test_labels_of_steps_are_none_to_who_needs_labels():
    net = net_for("lstm cell")
    cut = timed(net, synthesizer="critic", interface="dni:classes=3")
    with pytest.raises(SynthesizerError, match="of steps to come there are none: choose linear"):
        cut(*inputs_for(net), dni_context=torch.ones(5, 14, dtype=torch.long))


@pytest.mark.parametrize("name", ["stack of gru", "given", "lstm cell", "by hand"])
def test_copies_pickles_and_files_train_on_alike(name, tmp_path):
    net = net_for(name)
    cut = trained(timed(net), net, 2)
    dni_fx.save(cut, tmp_path / "cut.pt2")
    twins = [copy.deepcopy(cut), pickle.loads(pickle.dumps(cut)), dni_fx.load(tmp_path / "cut.pt2")]
    wanted = dict(trained(cut, net, 2).state_dict())
    for twin in twins:
        assert twin._dni.plan.time == cut._dni.plan.time
        assert_same(dict(trained(twin, net, 2).state_dict()), wanted, 1e-12)


def trained(cut, net, steps):
    optimizer = sgd(dni_fx.recouple(cut).parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        objective(seeded(cut, inputs_for(net))).backward()
        optimizer.step()
    return cut


class First(nn.Module):
    """Tells at the end what came first."""

    def __init__(self):
        super().__init__()
        self.core, self.out = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x):
        return self.out(self.core(x)[0][:, -1])


@pytest.mark.parametrize(("synthesizer", "learns"), [("zero", False), ("linear", True)])
def test_what_lies_more_than_a_chunk_back_is_learned_with_synthetic_gradients_alone(synthesizer, learns):
    torch.manual_seed(1)
    cut = dni_fx.decouple(First(), torch.zeros(64, 12, 2), plan="time:every=4", synthesizer=synthesizer)
    optimizer = torch.optim.Adam(dni_fx.recouple(cut).parameters(), lr=0.005)
    draw = torch.Generator().manual_seed(1)
    for _ in range(150):
        y = torch.randint(2, (64,), generator=draw)
        x = torch.stack([torch.zeros(64, 12), 0.5 * torch.randn(64, 12, generator=draw)], 2)
        x[:, 0, 0] = 2.0 * y - 1
        optimizer.zero_grad()
        loss = F.cross_entropy(cut(x), y)
        loss.backward()
        optimizer.step()
    assert (float(loss.detach()) < 0.3) == learns


@pytest.mark.parametrize("name", ["gru", "lstm cell"])
def test_compiled_it_learns_the_same(name):
    net = net_for(name)
    cut = timed(net)
    twin = copied(cut)
    wanted = trained(cut, net, 3).state_dict()
    trained_as = torch.compile(twin, backend="aot_eager")
    optimizer = sgd(dni_fx.recouple(twin).parameters())
    for _ in range(3):
        optimizer.zero_grad()
        objective(seeded(trained_as, inputs_for(net))).backward()
        optimizer.step()
    state = twin.state_dict()
    assert_same({key: state[key] for key in wanted if not key.startswith("dni.")}, original(wanted), 1e-10)


def without_dropout(net):
    """The same net, whose random numbers would otherwise be drawn chunk by chunk by hand."""
    if hasattr(net, "core"):
        net.core.dropout = 0.0
    return net


def original(found):
    return {key: value for key, value in found.items() if not key.startswith("dni.")}


def same(one, other):
    return one is other or torch.allclose(one, other, rtol=1e-6, atol=1e-12)


def heard(cut):
    """A list that grows by each guess of the only synthesizer."""
    (only,) = dni_fx.boundaries(cut).values() or [None]
    asked = []
    if only is not None:
        only.learner.register_forward_hook(lambda *_: asked.append(1))
    return asked
