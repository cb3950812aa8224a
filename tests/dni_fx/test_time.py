"""Where time is cut: what the policy finds, what a plan says of it, and what is refused."""

import pytest
import torch
from torch import nn

import dni_fx
from dni_fx.errors import PlanError
from dni_fx.policies import POLICIES
from passes import SpecError, UnknownNameError, parse
from tests.equality import assert_same, gradients
from tests.recurrent import Celled, Layered, inputs_for, net_for

FRONTENDS = ("auto", "export")


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


@pytest.mark.parametrize("every", ["0", '"4"', "[4]"])
def test_the_text_of_a_plan_says_after_how_many_steps(every):
    text = dni_fx.Plan({}, time={"core": 4}).to_json().replace('"core": 4', f'"core": {every}')
    with pytest.raises(SpecError, match=r"the time of core is .*; write after how many steps"):
        dni_fx.Plan.from_json(text)


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


def test_layers_whose_paths_look_alike_have_boundaries_of_their_own():
    class Alike(nn.Module):
        def __init__(self):
            super().__init__()
            self.a_b, self.a = nn.GRU(3, 6), nn.ModuleDict({"b": nn.GRU(6, 4)})

        def forward(self, x):
            return self.a["b"](self.a_b(x)[0])[0]

    cut = dni_fx.decouple(Alike(), torch.randn(9, 2, 3), plan="time:every=4")
    sizes = {name: dni.spec.value.shape for name, dni in dni_fx.boundaries(cut).items()}
    assert sizes == {"a_b_in_time": (2, 6), "a_b_in_time_1": (2, 4)}


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


@pytest.mark.parametrize("policy", ["time:every=4", "balanced:stages=1,time=4", "every:module=*,time=4"])
def test_a_net_without_time_is_refused_in_the_name_of_the_policy(policy):
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    assert str(parse(policy, POLICIES)) == policy
    with pytest.raises(PlanError, match=r"nothing to cut in time. It looked for calls of nn.RNN") as told:
        dni_fx.decouple(net, torch.randn(2, 3), plan=policy)
    assert policy in str(told.value)


def test_a_state_that_grows_is_refused():
    class Remembers(Celled):
        def forward(self, x):
            hs = [x.new_zeros(x.shape[0], 6)]
            for t in range(x.shape[1]):
                hs.append(self.cell(self.into(x[:, t]), torch.stack(hs).mean(0)))
            return self.out(hs[-1])

    with pytest.raises(PlanError, match=r"the state of the loop over cell was looked for"):
        dni_fx.decouple(Remembers(nn.GRUCell), torch.randn(2, 13, 3), plan="time:every=4")
