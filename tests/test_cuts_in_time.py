"""The state of recurrent nets is cut every so many steps, inside of one call."""

import copy
import pickle

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import PlanError
from dni_fx.runtimes import Recipe
from dni_fx.runtimes.backprop import Backprop
from dni_fx.runtimes.local import Local
from passes import UnknownNameError
from tests.equality import assert_same, copied, gradients, objective, seeded
from tests.recurrent import EVERY, LAYERS, LOOPS, NETS, Celled, Layered, inputs_for, net_for, timed

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


@pytest.mark.parametrize("interface", ["dni", "dni:warmup=3,every=2"])
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


def test_a_plan_says_where_time_is_cut_and_can_be_written_down():
    net = net_for("stack")
    program = dni_fx.capture(net, inputs_for(net))
    plan = dni_fx.plan(program, "balanced:stages=2,time=4")
    assert plan.time == {"core": 4}
    assert "core cut in time every 4" in str(plan)
    again = dni_fx.Plan.from_json(plan.to_json())
    assert again == plan
    cut = dni_fx.decouple(program, plan=again)
    assert any(dni.spec.group == "core" for dni in dni_fx.boundaries(cut).values())
    assert len(dni_fx.stages(cut)) == 2


def test_a_plan_for_what_is_not_there_is_refused():
    net = net_for("stack")
    plan = dni_fx.plan(dni_fx.capture(net, inputs_for(net)), "time:every=4")
    wrong = dni_fx.Plan.from_json(plan.to_json().replace('"core": 4', '"cor": 4'))
    with pytest.raises(PlanError, match=r"cor is to be cut in time.*\n*.*there are core"):
        dni_fx.decouple(net, inputs_for(net), plan=wrong)


def test_each_layer_has_a_synthesizer_and_patterns_choose_among_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.lower, self.upper = nn.GRU(3, 6, batch_first=True), nn.LSTM(6, 4, batch_first=True)

        def forward(self, x):
            return self.upper(self.lower(x)[0])[0]

    x = torch.randn(2, 9, 3)
    assert list(dni_fx.boundaries(dni_fx.decouple(Two(), x, plan="time:every=4"))) == [
        "lower_in_time",
        "upper_in_time",
    ]
    cut = dni_fx.decouple(Two(), x, plan="time:every=4,module=up*")
    assert list(dni_fx.boundaries(cut)) == ["upper_in_time"]
    with pytest.raises(UnknownNameError, match=r"'core' names nothing.*There are lower, upper"):
        dni_fx.decouple(Two(), x, plan="time:every=4,module=core")


def test_a_layer_that_is_called_for_each_step_is_a_cell():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.core = nn.LSTM(3, 6)

        def forward(self, x, every=0):
            state, ys = (x.new_zeros(1, x.shape[1], 6),) * 2, []
            for t in range(x.shape[0]):
                if every and t and not t % every:
                    state = tuple(each.detach() for each in state)
                y, state = self.core(x[t : t + 1], state)
                ys.append(y)
            return torch.cat(ys)

    torch.manual_seed(0)
    net, x = Steps().double(), torch.randn(9, 2, 3, dtype=torch.float64)
    cut = dni_fx.decouple(net, x, plan="time:every=4", synthesizer="zero")
    assert list(dni_fx.boundaries(cut)) == ["core_in_time"]
    assert_same(gradients(cut, (x,)), gradients(net, (x,), kwargs={"every": 4}), 1e-10)


def test_two_loops_one_after_the_other_are_two():
    class Translates(nn.Module):
        def __init__(self):
            super().__init__()
            self.reads, self.writes = nn.GRUCell(3, 6), nn.GRUCell(3, 6)

        def forward(self, x):
            h, ys = x.new_zeros(x.shape[0], 6), []
            for t in range(x.shape[1]):
                h = self.reads(x[:, t], h)
            for t in range(x.shape[1]):
                h = self.writes(x[:, t], h)
                ys.append(h)
            return torch.stack(ys)

    cut = dni_fx.decouple(Translates(), torch.randn(2, 9, 3), plan="time:every=4")
    assert list(dni_fx.boundaries(cut)) == ["reads_in_time", "writes_in_time"]


def test_both_directions_are_refused():
    net = Layered(nn.LSTM, batch_first=True)
    net.core, net.out = nn.LSTM(4, 3, bidirectional=True, batch_first=True), nn.Linear(6, 2)
    for frontend in FRONTENDS:
        with pytest.raises(PlanError, match=r"core: it is bidirectional.*reads one way"):
            dni_fx.decouple(net, torch.randn(2, 9, 3), plan="time:every=4", frontend=frontend)


def test_packed_sequences_are_refused():
    class Packs(Layered):
        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(self.into(x), torch.tensor([9, 5]), batch_first=True)
            return self.out(nn.utils.rnn.pad_packed_sequence(self.core(packed)[0], batch_first=True)[0])

    with pytest.raises(PlanError, match=r"core: it takes a packed sequence.*pad the batch"):
        dni_fx.decouple(Packs(nn.GRU, batch_first=True), torch.randn(2, 9, 3), plan="time:every=4")


def test_a_layer_with_a_hook_is_refused():
    net = Layered(nn.GRU, batch_first=True)
    net.core.register_forward_hook(lambda *_: None)
    with pytest.raises(PlanError, match=r"core: it has hooks"):
        dni_fx.decouple(net, torch.randn(2, 9, 3), plan="time:every=4", frontend="symbolic")


def test_a_net_without_time_is_refused():
    with pytest.raises(PlanError, match=r"found nothing to cut in time. It looked for calls of nn.RNN"):
        dni_fx.decouple(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3), plan="time:every=4")


def test_a_state_that_grows_is_refused():
    class Remembers(Celled):
        def forward(self, x):
            hs = [x.new_zeros(x.shape[0], 6)]
            for t in range(x.shape[1]):
                hs.append(self.cell(self.into(x[:, t]), torch.stack(hs).mean(0)))
            return self.out(hs[-1])

    with pytest.raises(PlanError, match=r"the state of the loop over cell was looked for"):
        dni_fx.decouple(Remembers(nn.GRUCell), torch.randn(2, 13, 3), plan="time:every=4")


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


assert LOOPS
